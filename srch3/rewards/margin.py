"""A reward by the distance to the hardest negative."""

from jaxtyping import Float
from torch import Tensor

from srch3.functional.ranking import margin
from srch3.rewards.base import RankingReward
from srch3.types import Outcome


class Margin(RankingReward):
    r"""How much more similar the best positive is than the hardest negative.

    .. math:: r = \max(0, \cos(q, d^+) - \max_j \cos(q, d_j^-) - \delta)

    The first term of the reward of ELVA (Liu et al., 2026, arXiv 2606.20280), whose delta is not known to us. Negatives
    are the irrelevant ones of the first K hits; where none is, the last hit's similarity stands in, which theirs do not
    exceed. The difference as it is, without the bound (``clipped: false``), also tells failures apart: with the bound,
    a group in which no completion finds its document first teaches nothing.

    Args:
        delta: What the difference has to exceed.
        clipped: Whether to earn no less than 0.
        k: Hits to judge.
        missing: Reward of a completion without the embed token; the default is less than nearly every search earns.
        weight: Factor of the reward.
    """

    def __init__(
        self, delta: float = 0.0, clipped: bool = True, k: int = 100, missing: float = -1.0, weight: float = 1.0
    ) -> None:
        super().__init__(k, missing, weight)
        self.delta = self._finite("delta", delta, "0 rewards every lead")
        self.clipped = clipped

    def judge(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """The margin of each completion's search."""
        lead = margin(outcome.positive_scores, outcome.hits.scores, outcome.grades, self.k) - self.delta
        return lead.clamp_min(0) if self.clipped else lead
