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
        return torch.stack([reward(outcome) for reward in self.rewards]).sum(dim=0)

    def parts(self, outcome: Outcome) -> dict[str, Float[Tensor, "rollouts"]]:
        """Each reward before it is weighted, by name; a number tells rewards of one name apart."""
        found: dict[str, Tensor] = {}
        for reward in cast(Iterable[BaseReward], self.rewards):
            for name, earned in reward.parts(outcome).items():
                names = (name, *(f"{name}_{number}" for number in range(2, len(found) + 2)))
                found[next(free for free in names if free not in found)] = earned
        return found
