"""The policy gradient of PPO, averaged over tokens."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from srch3.functional.language import token_mean


class PolicyTerms(NamedTuple):
    """Outcome of one evaluation of the clipped objective.

    Attributes:
        loss: To minimise.
        clipped_share: Share of this batch's counted tokens on which the clip stops the gradient; detached.
    """

    loss: Float[Tensor, ""]
    clipped_share: Float[Tensor, ""]


def clipped_policy_loss(
    logp: Float[Tensor, "rollouts seq"],
    old_logp: Float[Tensor, "rollouts seq"],
    advantages: Float[Tensor, "rollouts"],
    mask: Bool[Tensor, "rollouts seq"],
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    divisor: Tensor | float | None = None,
) -> PolicyTerms:
    r"""Raises the probability of tokens in completions that did better than their group.

    .. math:: L = -\frac{1}{N} \sum_{i,t} \min(\rho_{it} A_i,
        \operatorname{clip}(\rho_{it}, 1 - \epsilon_\mathrm{low}, 1 + \epsilon_\mathrm{high}) A_i), \quad
        \rho_{it} = e^{\log p_{it} - \log p^\mathrm{old}_{it}}

    PPO: Schulman et al., 2017 (arXiv 1707.06347). GRPO: Shao et al., 2024 (2402.03300). The mean over all tokens
    rather than over completions, which has no length bias, and the two clips are DAPO's: Yu et al., 2025 (2503.14476).

    Args:
        logp: Of the sampled tokens under the model that is trained.
        old_logp: The same under the model that sampled them, without gradient. Where every batch of samples gets one
            update, ``logp.detach()``.
        advantages: Of each completion.
        mask: True for a sampled token that counts: neither prompt nor padding, and of no completion that is to be
            left out (truncated, or of a group that is not active).
        clip_low: How far below 1 the ratio may go before the gradient stops; >= 0.
        clip_high: How far above 1; >= 0.
        divisor: N, if not the number of counted tokens in ``mask``; see `token_mean`.

    Returns:
        Loss and share of clipped tokens.
    """
    ratio = (logp - old_logp).where(mask, 0.0).exp()
    gain = advantages[:, None]
    unclipped = ratio * gain
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * gain
    binds = (clipped < unclipped).to(logp.dtype)
    loss = -token_mean(torch.minimum(unclipped, clipped), mask, divisor)
    return PolicyTerms(loss, token_mean(binds, mask).detach())
