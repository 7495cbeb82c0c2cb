"""A reward for having the form of a thought that ends in an embedding."""

import torch
from jaxtyping import Float
from torch import Tensor

from srch3.rewards.base import BaseReward
from srch3.types import Outcome


class Format(BaseReward):
    """1 where a completion wrote something and then emitted the embed token, else 0.

    Works that think and then embed reward their own form: LREM (arXiv 2510.14321), UME-R1 (2511.00405), Embed-RL
    (2602.13823). That an empty thought earns nothing is ours.

    Args:
        weight: Factor of the reward.
    """

    k = 0

    def judge(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """Whether each completion has the form."""
        wrote = torch.tensor([bool(thought.strip()) for thought in outcome.thoughts], device=outcome.emitted.device)
        return (outcome.emitted & wrote).float()
