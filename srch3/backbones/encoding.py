"""Forward passes for embeddings alone: they leave out whatever an embedding does not depend on.

Nothing of it changes what is computed at the embed token:

- No mask. Padding stands behind the tokens, where none of them looks.
- Of the last layer, embed tokens alone (``srch3.backbones.last_layer``).
- On a CPU, passes whose activations stay in its caches.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from srch3.backbones.batching import length_batches, pad
from srch3.backbones.last_layer import LastLayer
from srch3.backbones.reasoning_embedder import ReasoningEmbedder
from srch3.backbones.tokenization import Tokens
from srch3.functional.similarity import normalise

CPU_BYTES = 8192
"""Most bytes in which a pass on a CPU holds one number per token, padding included: 2,048 tokens in float32."""


def embed(
    backbone: ReasoningEmbedder, sequences: Sequence[Tokens], on_progress: Callable[[int], None] | None = None
) -> Float[Tensor, "batch dim"]:
    """What ``backbone.embed`` gives, faster, and without gradients.

    Models whose layers are built otherwise than :class:`LastLayer` needs are left to ``backbone.embed``.

    Args:
        backbone: A built model in evaluation mode, which one thread uses at a time.
        sequences: Prompts as tokens, each with an embed token.
        on_progress: Called with the number of sequences after each pass.
    """
    if not sequences:
        return torch.empty(0, backbone.dim, device=backbone.device, dtype=torch.float32)
    with torch.no_grad():
        if not LastLayer.fits(backbone.causal_lm):
            return backbone.embed(sequences, on_progress)
        parts, order = [], []
        last = LastLayer(backbone.causal_lm)
        for batch in length_batches([len(sequence) for sequence in sequences], _tokens_per_pass(backbone)):
            parts.append(_embed_pass(backbone, last, [sequences[row] for row in batch]))
            order.extend(batch)
            if on_progress:
                on_progress(len(batch))
        return torch.cat(parts)[torch.tensor(order).argsort().to(backbone.device)]


def _tokens_per_pass(backbone: ReasoningEmbedder) -> int:
    if backbone.device.type != "cpu":
        return backbone.tokens_per_batch
    return min(backbone.tokens_per_batch, CPU_BYTES // backbone.causal_lm.dtype.itemsize)


def _embed_pass(backbone: ReasoningEmbedder, last: LastLayer, sequences: list[Tokens]) -> Float[Tensor, "batch dim"]:
    ids, _, _ = pad(sequences, backbone.pad_id, "right", backbone.device)
    places = torch.tensor([_last_place(sequence, backbone.embed_token_id) for sequence in sequences], device=ids.device)
    with last.only_at(places):
        hidden = backbone.causal_lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return normalise(hidden[torch.arange(len(ids), device=ids.device), places])


def _last_place(sequence: Tokens, token: int) -> int:
    return len(sequence) - 1 - sequence[::-1].index(token)
