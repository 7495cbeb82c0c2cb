"""The reward of the Search-R3 paper, as far as it is known."""

from jaxtyping import Float
from torch import Tensor

from srch3.functional.ranking import scaled_dcg
from srch3.rewards.base import RankingReward
from srch3.types import Outcome


class ScaledDCG(RankingReward):
    r"""Discounted cumulative gain, each gain scaled by its cosine.

    .. math:: r = \sum_{i \le K} \mathrm{rel}_i \, \frac{\max(s_i, 0)}{\log_2(i + 1)}

    With one positive: its cosine over the logarithm of its rank plus one, and 0 outside the first K. It is continuous,
    so that completions of equal rank still differ, and flattens out as the top ranks converge.

    Gui & Cheng, 2025 (Search-R3, arXiv 2510.07048) use a DCG with continuous similarities. The exact formula is a
    reconstruction; how they treat negative cosines (here as 0), a missing embed token (here ``missing``), and K are
    not known to us. Not divided by an ideal value: where queries have different numbers of relevant documents, their
    rewards differ in scale, which advantages divided by the group's standard deviation do not feel.

    Args:
        k: Hits to judge.
        missing: Reward of a completion without the embed token.
        weight: Factor of the reward.
    """

    def judge(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """The scaled DCG of each completion's hits."""
        return scaled_dcg(outcome.hits.scores, outcome.grades, self.k)
