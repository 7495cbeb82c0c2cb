"""A penalty for completions that came to no end."""

from jaxtyping import Float
from torch import Tensor

from srch3.rewards.base import BaseReward
from srch3.types import Outcome


class Truncation(BaseReward):
    """-1 where a completion used up its tokens before it came to an end, else 0.

    GRACE (Sun et al., 2025, arXiv 2510.04506) gives -1 in place of any other reward. Here it is added to the others, of
    which a ranking reward has its ``missing`` for any completion without the embed token, truncated or not.

    Args:
        weight: Factor of the reward.
    """

    k = 0

    def judge(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """The penalty of each completion."""
        return -outcome.truncated.float()
