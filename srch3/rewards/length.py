"""A reward for thoughts of the right length."""

from jaxtyping import Float
from torch import Tensor

from srch3.rewards.base import BaseReward
from srch3.types import Outcome


class Length(BaseReward):
    """1 where a thought is neither too short nor too long, else 0.

    LREM (Tang et al., 2025, arXiv 2510.14321) has up to 16 tokens and no lower bound. The embed token is not counted.
    Completions without it are judged as the others are: reward them by `Format`.

    Args:
        shortest: The fewest tokens.
        longest: The most tokens; to tell too long thoughts from others, the backbone has to let them be written
            (``max_thought_tokens``).
        weight: Factor of the reward.

    Raises:
        ConfigError: If no length is left.
    """

    k = 0

    def __init__(self, shortest: int = 0, longest: int = 16, weight: float = 1.0) -> None:
        super().__init__(weight)
        if shortest < 0:
            self._refuse("shortest", "an integer >= 0", shortest, "0 also accepts no thought at all")
        if longest < shortest:
            self._refuse("longest", f"at least shortest = {shortest}", longest, "else no thought has the right length")
        self.shortest, self.longest = shortest, longest

    def judge(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """Whether each thought has the right length."""
        tokens = outcome.lengths - outcome.emitted.long()
        return ((tokens >= self.shortest) & (tokens <= self.longest)).float()
