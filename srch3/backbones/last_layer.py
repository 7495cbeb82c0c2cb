"""The last layer at one token of each sequence: its other outputs are read by nobody when a text is embedded."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from srch3.backbones.packing import FAMILIES, attention

NAME = "srch3_last_layer"
"""Of the attention function, as a model's config names it within a pass."""

_PLACES = "srch3_places"


class LastLayer:
    """Has a model compute the feed-forward part, and under ``sdpa`` the attention, of its last layer at given tokens.

    What the last layer gives at other tokens is meaningless then; at these it is the same.

    Args:
        model: A causal LM for which :meth:`fits` holds.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.config: Any = model.config.get_text_config()
        base: Any = model.base_model
        layer = base.h[-1] if self.config.model_type == "gpt2" else base.layers[-1]
        self.feed_forward: nn.Module = layer.mlp
        self.attention: nn.Module = layer.attn if self.config.model_type == "gpt2" else layer.self_attn
        self.own = attention(model)

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Whether the layers are built as they must be: no token looks ahead, and each part adds its output."""
        config: Any = model.config.get_text_config()
        return config.model_type in FAMILIES and not getattr(config, "use_bidirectional_attention", False)

    @contextmanager
    def only_at(self, places: Int64[Tensor, "batch"]) -> Iterator[None]:
        """Within it, the last hidden state of each sequence is right at its place alone."""
        rows = torch.arange(len(places), device=places.device)

        def select(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return inputs[0][rows, places].unsqueeze(1), *inputs[1:]

        handle = self.feed_forward.register_forward_pre_hook(select)
        if self.own == "sdpa":
            self.config._attn_implementation = NAME  # noqa: SLF001
            setattr(self.attention, _PLACES, places)
        try:
            yield
        finally:
            handle.remove()
            self.config._attn_implementation = self.own  # noqa: SLF001
            self.attention.__dict__.pop(_PLACES, None)


def attend(
    module: nn.Module,
    query: Float[Tensor, "batch heads seq width"],
    key: Float[Tensor, "batch kv_heads seq width"],
    value: Float[Tensor, "batch kv_heads seq width"],
    attention_mask: Bool[Tensor, "some 1 seq seq"] | None,
    **settings: Any,
) -> tuple[Float[Tensor, "batch seq heads width"], None]:
    """Attention that is computed at one token of each sequence, and given to all of it, where a module was told so."""
    places: Tensor | None = getattr(module, _PLACES, None)
    if places is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    rows, length = torch.arange(len(places), device=places.device), query.shape[2]
    if attention_mask is None:
        seen = (torch.arange(length, device=places.device) <= places[:, None])[:, None, None]
    else:
        seen = attention_mask.expand(len(places), -1, -1, -1)[rows, :, places].unsqueeze(2)
    one = query[rows, :, places].unsqueeze(2)
    output, _ = sdpa_attention_forward(module, one, key, value, seen, **settings)
    return output.expand(-1, length, -1, -1), None


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
