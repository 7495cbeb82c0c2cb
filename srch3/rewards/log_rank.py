"""A reward by rank alone."""

from jaxtyping import Float
from torch import Tensor

from srch3.functional.ranking import log_rank
from srch3.rewards.base import BaseReward
from srch3.types import Outcome


class LogRank(BaseReward):
    r"""Falls with the logarithm of the rank of the first relevant hit.

    .. math:: r = 1 - \frac{\log \mathrm{rank}}{\log (K + 1)}

    0 where no relevant document is among the first K. After LREM (arXiv 2510.14321), which ranks within the batch
    and divides by the logarithm of the number of its documents; here the corpus is searched, down to rank K. Use it
    where similarities are not to be rewarded as such: they rise when all embeddings move together, ranks do not.
    Completions of one query that rank alike teach nothing.

    Args:
        k: Hits to judge.
        missing: Reward of a completion without the embed token.
    """

    def judge(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """The fraction of the way up, on a logarithmic scale."""
        return log_rank(outcome.grades, self.k)
