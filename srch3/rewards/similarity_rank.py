"""A reward by the order of all candidates, weighted by their similarities."""

from jaxtyping import Float
from torch import Tensor

from srch3.functional.ranking import similarity_rank
from srch3.rewards.base import RankingReward
from srch3.types import Outcome


class SimilarityRank(RankingReward):
    r"""The positive's similarity over the logarithm of its rank, less the negatives' similarities, each by its rank.

    .. math:: r = \frac{s_r}{1 + \log r} - \gamma \sum_{k \ne r} s_k (\log k - 1)

    The second term of the reward of ELVA (Liu et al., 2026, arXiv 2606.20280), over pools of 100 negatives. Their gamma
    and the base of the logarithm are not known to us: ours is natural, and with the default gamma 100 negatives of
    similarity 1 cost 0.26. Where a query has several positives, r is the rank of the best, and none of the others is a
    negative. A positive that is not among the first K has the rank after the last of them.

    Args:
        gamma: Weight of the negatives.
        k: Hits to judge.
        missing: Reward of a completion without the embed token; the default is less than nearly every search earns.
        weight: Factor of the reward.
    """

    def __init__(self, gamma: float = 0.001, k: int = 100, missing: float = -1.0, weight: float = 1.0) -> None:
        super().__init__(k, missing, weight)
        self.gamma = self._at_least_zero("gamma", gamma, "0 leaves the negatives out")

    def judge(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """The positive's term less that of the negatives."""
        return similarity_rank(outcome.positive_scores, outcome.hits.scores, outcome.grades, self.k, self.gamma)
