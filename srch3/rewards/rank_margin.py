"""A reward by rank and similarity together."""

from jaxtyping import Float
from torch import Tensor

from srch3.functional.ranking import rank_margin
from srch3.rewards.base import RankingReward
from srch3.types import Outcome


class RankMargin(RankingReward):
    r"""The share of positives that are found early, times how much more similar they are than the negatives.

    .. math:: r = \frac{|\mathrm{positives} \cap \mathrm{first}_n|}{\min(n, |\mathrm{positives}|)}
        \left( \overline{s^+} - \sum_j w_j s^-_j \right)

    UME-R1 (Lan et al., 2025, arXiv 2511.00405) has the plain mean of the negatives; they report that thresholds alone
    gave no gradient. Embed-RL (Jiang et al., 2026, 2602.13823) weights each negative by the softmax of its similarity,
    with a temperature of 0.5. Both think about documents too, so that a query's positives are its document after each
    of n = G thoughts; here a document has one vector, and its first n hits are those where the similarity begins to
    count. What is not found among the first K is unknown, and no positive.

    Args:
        top: n, the ranks that are early.
        negative_temperature: Of the softmax that weights negatives; by default they weigh alike.
        k: Hits to judge; positives and negatives are taken from these.
        missing: Reward of a completion without the embed token.
        weight: Factor of the reward.
    """

    def __init__(
        self,
        top: int = 8,
        negative_temperature: float | None = None,
        k: int = 100,
        missing: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(k, missing, weight)
        if not 1 <= top <= k:
            self._refuse("top", f"an integer from 1 to k = {k}", top, "8 is usual")
        if negative_temperature is not None:
            self._positive("negative_temperature", negative_temperature, "leave it out to weight negatives alike")
        self.top, self.negative_temperature = top, negative_temperature

    def judge(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """The share found early times the gap."""
        return rank_margin(outcome.hits.scores, outcome.grades, self.k, self.top, self.negative_temperature)
