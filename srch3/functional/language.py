"""Per-token terms of language modelling: cross-entropy, divergences, and their mean over the tokens that count."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from srch3.functional.similarity import at_least_float32

Direction = Literal["forward", "reverse"]
"""Of a Kullback-Leibler divergence: ``forward`` is KL(reference || model), ``reverse`` is KL(model || reference)."""


def token_cross_entropy(
    logits: Float[Tensor, "tokens vocab"], targets: Int64[Tensor, "tokens"]
) -> Float[Tensor, "tokens"]:
    """Negative log-likelihood of each target.

    Args:
        logits: Of the position *before* each target, in any floating-point type; computed in float32.
        targets: Token ids.

    Returns:
        Nats per token.
    """
    return F.cross_entropy(at_least_float32(logits), targets, reduction="none")


def token_log_probs(
    logits: Float[Tensor, "tokens vocab"], targets: Int64[Tensor, "tokens"], temperature: float = 1.0
) -> Float[Tensor, "tokens"]:
    """Log-probability of each target under the distribution that it was sampled from.

    Args:
        logits: Of the position *before* each target.
        targets: Token ids.
        temperature: Of the sampling; > 0. Old, new and reference log-probabilities must share it, or their ratios
            are biased.

    Returns:
        Nats per token, <= 0.
    """
    return -token_cross_entropy(at_least_float32(logits) / temperature, targets)


def categorical_kl(
    logits: Float[Tensor, "tokens vocab"],
    reference_logits: Float[Tensor, "tokens vocab"],
    excluded_id: int | None = None,
    direction: Direction = "forward",
) -> Float[Tensor, "tokens"]:
    r"""Exact divergence between two next-token distributions.

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_v p_v (\log p_v - \log q_v)

    Args:
        logits: Of the model.
        reference_logits: Of the frozen reference, over the same vocabulary; gradients are not stopped here.
        excluded_id: A token that the reference has never learned, such as an added embed token. It is taken out of
            both distributions and the rest is renormalised, so that the model stays free to write it.
        direction: ``forward`` has p = reference, which spreads the model over all that the reference would write;
            ``reverse`` has p = model, which keeps it from what the reference would not write.

    Returns:
        Nats per token, >= 0 up to rounding.
    """
    model = F.log_softmax(_without(at_least_float32(logits), excluded_id), dim=-1)
    reference = F.log_softmax(_without(at_least_float32(reference_logits), excluded_id), dim=-1)
    target, approximation = (reference, model) if direction == "forward" else (model, reference)
    return F.kl_div(approximation, target, reduction="none", log_target=True).sum(dim=-1)


def k3(logp: Float[Tensor, "*shape"], reference_logp: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""Estimate of KL(model || reference) from the log-probabilities of sampled tokens alone.

    .. math:: k_3 = e^d - d - 1, \quad d = \log p_\mathrm{ref} - \log p

    Schulman, 2020 (joschu.net/blog/kl-approx.html). Unbiased for tokens sampled from the model, and never negative.

    Args:
        logp: Of the tokens under the model.
        reference_logp: Of the same tokens under the reference, at the same temperature.

    Returns:
        Nats per token, >= 0.
    """
    difference = reference_logp - logp
    return torch.expm1(difference) - difference


def token_mean(values: Float[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"]) -> Float[Tensor, ""]:
    """Mean over the tokens that count, each token with the same weight whatever the length of its sequence.

    Args:
        values: One per token; those that do not count may be anything, NaN included.
        mask: True where a token counts.

    Returns:
        The mean; zero where no token counts.
    """
    return values.where(mask, 0.0).sum() / mask.sum().clamp_min(1)


def _without(logits: Float[Tensor, "tokens vocab"], excluded_id: int | None) -> Float[Tensor, "tokens rest"]:
    """The logits without one column."""
    if excluded_id is None:
        return logits
    return torch.cat((logits[:, :excluded_id], logits[:, excluded_id + 1 :]), dim=1)
