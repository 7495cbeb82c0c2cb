"""What a reward is."""

import math
from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from srch3.errors import ConfigError
from srch3.types import Outcome


class BaseReward(nn.Module, ABC):
    """A reward that judges the first ``k`` hits; subclasses say how in ``judge``.

    Args:
        k: Hits to search for and to judge.
        missing: Reward of a completion that ended without the embed token, and so made no search.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(self, k: int = 100, missing: float = 0.0) -> None:
        super().__init__()
        if k < 1:
            raise ConfigError(f"model.init_args.reward.init_args.k: expected an integer >= 1; got {k}; 100 is usual")
        if not math.isfinite(missing):
            raise ConfigError(
                f"model.init_args.reward.init_args.missing: expected a finite number; got {missing}; "
                "0 earns as much as finding nothing"
            )
        self.k = k
        self.missing = missing

    def forward(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """The reward of each completion, float32, without gradient."""
        return self.judge(outcome).where(outcome.emitted, self.missing).detach()

    @abstractmethod
    def judge(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """The reward of each completion that emitted the embed token; the others' values are not used.

        Args:
            outcome: Hits that are best first, with a grade each. Grades of documents that were not found are unknown.
        """
