"""How much better a completion did than the others of its query."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from srch3.errors import NumericError

STD_OFFSET = 1e-4
"""Added to the standard deviation, as TRL has it: differences of that size are not blown up into full advantages."""


class GroupAdvantages(NamedTuple):
    """What a group of completions teaches.

    Attributes:
        advantages: Zero mean within each group; zero throughout a group that is not active.
        active: False for all completions of a group whose rewards are equal, from which there is nothing to learn.
    """

    advantages: Float[Tensor, "rollouts"]
    active: Bool[Tensor, "rollouts"]


def group_advantages(
    rewards: Float[Tensor, "rollouts"],
    groups: Int64[Tensor, "rollouts"],
    scale_by_std: bool = True,
    eps: float = 1e-6,
) -> GroupAdvantages:
    r"""Advantage of each completion over its group, in place of a learned value function.

    .. math:: A_i = \frac{r_i - \operatorname{mean}(r_g)}{\operatorname{std}(r_g) + 10^{-4}}

    GRPO: Shao et al., 2024 (arXiv 2402.03300); std is that of a sample (divided by n - 1). Without the division by the
    std: Liu et al., 2025 (2503.20783), which keeps queries of small spread from being amplified.

    Args:
        rewards: One per completion.
        groups: Completions with equal numbers answer the same query; in any order and number.
        scale_by_std: Whether to divide by the group's standard deviation.
        eps: A group is active if its best reward exceeds its worst by more than this.

    Returns:
        Advantages, and which completions are active. Leave inactive ones out of the token count that a policy loss
        is divided by, or they dilute it.

    Raises:
        NumericError: If a reward is NaN or infinite.
    """
    if not rewards.isfinite().all():
        count = int((~rewards.isfinite()).sum())
        raise NumericError(
            f"rewards: expected finite numbers; got {count} of {len(rewards)} NaN or infinite; "
            "look at the embeddings' norms and the reward's arguments"
        )
    members = groups[:, None] == groups
    counts = members.sum(dim=1)
    centred = rewards - (members * rewards).sum(dim=1) / counts
    highest = rewards.where(members, -torch.inf).amax(dim=1)
    lowest = rewards.where(members, torch.inf).amin(dim=1)
    active = highest - lowest > eps
    if scale_by_std:
        variance = (members * centred.square()).sum(dim=1) / (counts - 1).clamp_min(1)
        centred = centred / (variance.sqrt() + STD_OFFSET)
    return GroupAdvantages(centred.where(active, 0.0), active)
