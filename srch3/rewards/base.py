"""What a reward is: a small class that judges completions, on its own or as one of a `Sum`."""

import math
import re
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from srch3.errors import ConfigError
from srch3.types import Outcome


class BaseReward(nn.Module, ABC):
    """A reward of any kind; subclasses say in ``judge`` what a completion earns, whether it made a search or not.

    One that looks at hits is better a `RankingReward`, which knows what to do where there was no search.

    Args:
        weight: Factor of the reward.

    Raises:
        ConfigError: If an argument is out of range.
    """

    k: int = 100
    """Hits to search for; 0 where hits are not looked at."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = self._at_least_zero("weight", weight, "1 is usual")

    @property
    def name(self) -> str:
        """What its figures are logged as: the name of the class in snake case."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    def forward(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """The reward of each completion times the weight, float32, without gradient."""
        return self.with_parts(outcome)[0]

    def with_parts(self, outcome: Outcome) -> tuple[Float[Tensor, "rollouts"], dict[str, Float[Tensor, "rollouts"]]]:
        """The reward times the weight, and what it is the sum of, by name and before it is weighted.

        Training calls this once per step, and so ``judge``: it may draw lots, or cost something. Audits call it again.
        """
        earned = self.earned(outcome)
        return self.weight * earned, {self.name: earned}

    def earned(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """The reward before it is weighted, float32 whatever the precision of training, without gradient.

        Raises:
            ConfigError: ``judge`` does not give one number per completion.
        """
        with torch.autocast(outcome.emitted.device.type, enabled=False):
            judged = self.judge(outcome).detach().float()
        if judged.shape != outcome.emitted.shape:
            raise ConfigError(
                f"model.init_args.reward: expected one number per completion from {type(self).__name__}.judge, a "
                f"tensor of shape {tuple(outcome.emitted.shape)}; got shape {tuple(judged.shape)}"
            )
        return judged

    @abstractmethod
    def judge(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """The reward of each completion."""

    def _finite(self, name: str, value: float, advice: str) -> float:
        """The value, once it is known to be finite."""
        if not math.isfinite(value):
            self._refuse(name, "a finite number", value, advice)
        return value

    def _at_least_zero(self, name: str, value: float, advice: str) -> float:
        """The value, once it is known to be finite and not negative."""
        if not (math.isfinite(value) and value >= 0):
            self._refuse(name, "a finite number >= 0", value, advice)
        return value

    def _positive(self, name: str, value: float, advice: str) -> float:
        """The value, once it is known to be finite and above 0."""
        if not (math.isfinite(value) and value > 0):
            self._refuse(name, "a finite number above 0", value, advice)
        return value

    def _refuse(self, name: str, expected: str, value: object, advice: str) -> None:
        """Reports a setting under the name that it has in YAML, where this is the only reward.

        A reward does not know of the `Sum` that it is part of, hence the name of its class.
        """
        raise ConfigError(
            f"model.init_args.reward.init_args.{name}: expected {expected}; got {value} in {type(self).__name__}; "
            f"{advice}"
        )


class RankingReward(BaseReward):
    """A reward that judges the first ``k`` hits of a search.

    Args:
        k: Hits to search for and to judge.
        missing: Reward of a completion that ended without the embed token, and so made no search.
        weight: Factor of the reward.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(self, k: int = 100, missing: float = 0.0, weight: float = 1.0) -> None:
        super().__init__(weight)
        if k < 1:
            self._refuse("k", "an integer >= 1", k, "100 is usual")
        self.k = k
        self.missing = self._finite("missing", missing, "0 earns as much as finding nothing")

    def earned(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """The reward before it is weighted, ``missing`` where there was no search."""
        return super().earned(outcome).where(outcome.emitted, self.missing)

    @abstractmethod
    def judge(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """The reward of each completion that emitted the embed token; the others' values are not used.

        Args:
            outcome: Hits that are best first, with a grade each; more than ``k`` of them where another reward wants
                more, fewer where there are not as many documents. Grades of documents that were not found are unknown.
        """
