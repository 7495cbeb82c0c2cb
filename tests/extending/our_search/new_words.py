"""A reward for saying something new."""

from jaxtyping import Float
from torch import Tensor

from srch3.rewards import BaseReward
from srch3.types import Outcome


class NewWords(BaseReward):
    """The share of a thought's words that are not in the query.

    Args:
        ceiling: The share from which on more earns no more.
        weight: Factor of the reward.
    """

    k = 0

    def __init__(self, ceiling: float = 1.0, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.ceiling = ceiling

    def judge(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """How new each thought is."""
        shares = [self._share(*texts) for texts in zip(outcome.queries, outcome.thoughts, strict=True)]
        return outcome.positive_scores.new_tensor(shares)

    def _share(self, query: str, thought: str) -> float:
        words = thought.split()
        new = sum(word not in query.split() for word in words)
        return min(new / len(words), self.ceiling) if words else 0.0
