"""Next-token logits of some positions alone, as the model's own forward pass computes those of all."""

from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from srch3.backbones.caching import recomputed

LOGITS_AT_ONCE = 2**25
"""Most logits that are held together while log-probabilities are computed: 128 MiB in float32."""


class LogProbs(NamedTuple):
    """What the model thinks of given next tokens.

    Attributes:
        logprobs: Of each target, in nats, at the temperature.
        entropy: Of the distribution that it was chosen from, in nats, at the temperature; without gradient.
    """

    logprobs: Float[Tensor, "tokens"]
    entropy: Float[Tensor, "tokens"]


def next_token_logits(
    model: PreTrainedModel, hidden: Float[Tensor, "tokens dim"]
) -> Float[Tensor, "tokens vocabulary"]:
    """The output matrix times each hidden state, with what a family does to the product.

    Cohere multiplies by ``logit_scale``, Granite divides by ``logits_scaling``, and Gemma 2 caps softly.

    Args:
        model: A causal LM.
        hidden: Last hidden states, after the final norm.

    Returns:
        In float32.
    """
    config: Any = model.config
    output: Any = model.get_output_embeddings()
    logits: Tensor = output(hidden).float()
    if scale := getattr(model, "logit_scale", None):
        logits = logits * scale
    if config.model_type.startswith("granite"):
        logits = logits / config.logits_scaling
    cap = getattr(config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


def next_token_log_probs(
    model: PreTrainedModel,
    hidden: Float[Tensor, "tokens dim"],
    targets: Int64[Tensor, "tokens"],
    temperature: float = 1.0,
    at_once: int | None = None,
) -> LogProbs:
    """Log-probabilities of given next tokens, in bounded memory whatever the number of tokens and the vocabulary.

    Where all logits together are more than a few, they are computed in parts, and again in the backward pass.

    Args:
        model: A causal LM.
        hidden: Last hidden states before each target.
        targets: Token ids.
        temperature: Of the sampling; > 0.
        at_once: Most tokens whose logits are held together, if memory wants fewer than `LOGITS_AT_ONCE` allows.
    """
    vocabulary = model.get_output_embeddings().weight.shape[0]
    size = max(1, min(LOGITS_AT_ONCE // vocabulary, at_once or len(targets)))
    several = len(targets) > size
    parts = [
        recomputed(partial(_log_probs, model, some, chosen, temperature), several, hidden.device)
        for some, chosen in zip(hidden.split(size), targets.split(size), strict=True)
    ]
    return LogProbs(torch.cat([part.logprobs for part in parts]), torch.cat([part.entropy for part in parts]))


def _log_probs(model: PreTrainedModel, hidden: Tensor, targets: Tensor, temperature: float) -> LogProbs:
    everything = F.log_softmax(next_token_logits(model, hidden) / temperature, dim=-1)
    logprobs = -F.nll_loss(everything, targets, reduction="none")
    with torch.no_grad():
        return LogProbs(logprobs, -(everything.exp() * everything).sum(dim=-1))
