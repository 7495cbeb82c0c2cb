"""Several rewards as one."""

from collections.abc import Iterable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from srch3.rewards.base import BaseReward
from srch3.types import Outcome


class Sum(BaseReward):
    """The sum of several rewards, each times its weight.

    Args:
        rewards: What to add up; each has a ``weight`` of its own.

    Raises:
        ConfigError: If there is nothing to add.
    """

    def __init__(self, rewards: list[BaseReward]) -> None:
        super().__init__()
        if not rewards:
            self._refuse("rewards", "at least one reward", "none", "list one, such as ScaledDCG")
        self.rewards = nn.ModuleList(rewards)
        self.k = max(reward.k for reward in rewards)

    def judge(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """The weighted sum of each completion's rewards."""
        return self.with_parts(outcome)[0]

    def with_parts(self, outcome: Outcome) -> tuple[Float[Tensor, "rollouts"], dict[str, Float[Tensor, "rollouts"]]]:
        """The sum, and each reward before it is weighted, by name; a number tells rewards of one name apart."""
        totals: list[Tensor] = []
        found: dict[str, Tensor] = {}
        for reward in cast(Iterable[BaseReward], self.rewards):
            total, parts = reward.with_parts(outcome)
            totals.append(total)
            for name, earned in parts.items():
                names = (name, *(f"{name}_{number}" for number in range(2, len(found) + 2)))
                found[next(free for free in names if free not in found)] = earned
        return torch.stack(totals).sum(dim=0), found
