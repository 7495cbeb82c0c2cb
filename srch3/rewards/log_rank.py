"""A reward by rank alone."""

from jaxtyping import Float
from torch import Tensor

from srch3.functional.ranking import log_rank
from srch3.rewards.base import RankingReward
from srch3.types import Outcome


class LogRank(RankingReward):
    r"""Falls with the logarithm of the rank of the first relevant hit.

    .. math:: r = 1 - \frac{\log \mathrm{rank}}{\log N}

    LREM (Tang et al., 2025, arXiv 2510.14321) ranks among the N documents of the batch. Where there are K documents or
    more, N is K + 1, and what is not among the first K earns 0: that is ours. Use it where similarities are not to be
    rewarded as such: they rise when all embeddings move together, ranks do not. Completions of one query that rank
    alike teach nothing.

    Args:
        k: Hits to judge; more than a batch has documents, if they are to be ranked as LREM does.
        missing: Reward of a completion without the embed token.
        weight: Factor of the reward.
    """

    def judge(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """The fraction of the way up, on a logarithmic scale."""
        return log_rank(outcome.grades, self.k)
