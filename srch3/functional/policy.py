"""The policy gradient of PPO with the ratios and the normalisers of its group-relative descendants."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from srch3.functional.language import token_mean

Ratio = Literal["token", "sequence"]
"""Of a completion's new probability to its old one: for each ``token``, or one for the whole ``sequence``."""

Normaliser = Literal["grpo", "dapo", "dr_grpo"]
"""What tokens are averaged over.

``grpo``: over the tokens of a completion, then over completions, so that all completions weigh the same.
``dapo``: over all tokens, so that all tokens weigh the same. ``dr_grpo``: over as many tokens as the completions could
have had, so that the weight of a token does not depend on what else was sampled.
"""


class PolicyTerms(NamedTuple):
    """Outcome of one evaluation of the clipped objective.

    Attributes:
        loss: To minimise.
        clipped_low: Share of this batch's counted tokens whose ratio fell too far for the gradient to lower it more.
        clipped_high: Share of them whose ratio rose too far for the gradient to raise it more.
        ratio: Mean ratio of the counted tokens.
    """

    loss: Float[Tensor, ""]
    clipped_low: Float[Tensor, ""]
    clipped_high: Float[Tensor, ""]
    ratio: Float[Tensor, ""]

    @property
    def clipped_share(self) -> Float[Tensor, ""]:
        """Share of this batch's counted tokens on which the clip stops the gradient."""
        return self.clipped_low + self.clipped_high


def count(mask: Bool[Tensor, "rollouts tokens"], normaliser: Normaliser) -> Float[Tensor, ""]:
    """What this part of a batch contributes to the number that `normalised` divides by.

    Completions without a counted token contribute nothing: what the mask leaves out of the loss, it leaves out of the
    divisor too.

    Args:
        mask: True where a token counts.
        normaliser: What tokens are averaged over.

    Returns:
        ``dapo``: counted tokens; otherwise completions with a counted token.
    """
    return (mask if normaliser == "dapo" else mask.any(dim=1)).sum().float()


def normalised(
    values: Float[Tensor, "rollouts tokens"],
    mask: Bool[Tensor, "rollouts tokens"],
    normaliser: Normaliser,
    max_tokens: int,
    total: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    r"""Average of what each token contributes to a loss.

    .. math:: \frac{1}{N} \sum_i w_i \sum_t v_{it}

    ``grpo``: :math:`w_i = 1 / T_i`, the completion's counted tokens, and N completions (Shao et al., 2024, arXiv
    2402.03300). ``dapo``: :math:`w_i = 1` and N tokens (Yu et al., 2025, 2503.14476). ``dr_grpo``:
    :math:`w_i = 1 / T_\mathrm{max}` and N completions (Liu et al., 2025, 2503.20783).

    Args:
        values: One per token; those that do not count may be anything, NaN included.
        mask: True where a token counts.
        normaliser: What tokens are averaged over.
        max_tokens: Most tokens that a completion may have; matters to ``dr_grpo`` alone.
        total: N, if not the `count` of this mask. Where a batch is spread over processes whose gradients are averaged,
            the mean of the processes' counts gives the gradient of the batch as a whole.

    Returns:
        Zero where nothing counts.
    """
    sums = values.where(mask, 0.0).sum(dim=1)
    if normaliser == "grpo":
        sums = sums / mask.sum(dim=1).clamp_min(1)
    elif normaliser == "dr_grpo":
        sums = sums / max_tokens
    divisor = torch.as_tensor(count(mask, normaliser) if total is None else total, device=sums.device)
    return sums.sum() / divisor.where(divisor > 0, 1.0)


def clipped_policy_loss(
    logp: Float[Tensor, "rollouts tokens"],
    old_logp: Float[Tensor, "rollouts tokens"],
    advantages: Float[Tensor, "rollouts"],
    mask: Bool[Tensor, "rollouts tokens"],
    max_tokens: int,
    total: Tensor | float | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ratio: Ratio = "token",
    normaliser: Normaliser = "dapo",
) -> PolicyTerms:
    r"""Raises the probability of completions that did better than their group.

    .. math:: v_{it} = -\min(\rho_{it} A_i,
        \operatorname{clip}(\rho_{it}, 1 - \epsilon_\mathrm{low}, 1 + \epsilon_\mathrm{high}) A_i)

    averaged as `normalised` says. Token ratios :math:`\rho_{it} = e^{d_{it}}` with :math:`d_{it} = \log p_{it} -
    \log p^\mathrm{old}_{it}` are those of PPO: Schulman et al., 2017 (arXiv 1707.06347). A sequence has the one ratio
    :math:`\rho_i = \exp(\frac{1}{T_i} \sum_t d_{it})` in GSPO: Zheng et al., 2025 (2507.18071), which averages over
    completions (``grpo``); the other normalisers weigh its completions by their lengths. Two unlike clips are DAPO's.

    Args:
        logp: Of the sampled tokens under the model that is trained.
        old_logp: The same under the model that sampled them, without gradient. Where every batch of samples gets one
            update, ``logp.detach()``.
        advantages: Of each completion.
        mask: True for a sampled token that counts: neither prompt nor padding, and of no completion that is to be
            left out (truncated, or of a group that is not active).
        max_tokens: Most tokens that a completion may have; matters to ``dr_grpo`` alone.
        total: What to divide by, if not the `count` of this mask; see `normalised`.
        clip_low: How far below 1 the ratio may go before the gradient stops; >= 0.
        clip_high: How far above 1; >= 0.
        ratio: What has a ratio of its own.
        normaliser: What tokens are averaged over.

    Returns:
        The loss, and what the clip did, without gradient.
    """
    log_ratio = (logp - old_logp).where(mask, 0.0)
    if ratio == "sequence":
        means = log_ratio.sum(dim=1) / mask.sum(dim=1).clamp_min(1)
        log_ratio = means[:, None].expand_as(log_ratio)
    ratios, gain = log_ratio.exp(), advantages[:, None]
    objective = torch.minimum(ratios * gain, ratios.clamp(1 - clip_low, 1 + clip_high) * gain)
    loss = normalised(-objective, mask, normaliser, max_tokens, total)
    with torch.no_grad():
        low = token_mean(((ratios < 1 - clip_low) & (gain < 0)).float(), mask)
        high = token_mean(((ratios > 1 + clip_high) & (gain > 0)).float(), mask)
        return PolicyTerms(loss, low, high, token_mean(ratios, mask))
