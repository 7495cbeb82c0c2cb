"""Next-token logits of some positions alone, as the model's own forward pass computes those of all."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel


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
