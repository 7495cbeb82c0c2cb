"""Sequences that are being written: one token at a time, and those that are finished leave."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache, PreTrainedModel

from srch3.backbones.batching import length_batches, pad
from srch3.backbones.packing import FAMILIES
from srch3.backbones.reasoning_embedder import ReasoningEmbedder, Tokens
from srch3.backbones.reserved import Kept, ReservedLayer
from srch3.backbones.shared_prompts import NAME, SharedLayer, Slots

_SMALL_CACHE = 1024
"""Copies of prompts with fewer tokens than these, all together, are faster to read than prompts are to share."""


class Decoder(Protocol):
    """Rows that are being written; at first, the samples of one prompt follow each other."""

    hidden: Float[Tensor, "rows dim"]
    """The last hidden state of each row."""

    def feed(self, tokens: Int64[Tensor, "rows"]) -> None:
        """Reads one token of every row."""

    def keep(self, chosen: Bool[Tensor, "rows"]) -> Int64[Tensor, "kept"]:
        """Drops all other rows; returns where each of the rows that are left stood before."""


def start(embedder: ReasoningEmbedder, prompts: Sequence[Tokens], samples: int, steps: int) -> Decoder:
    """Reads each prompt once, for all of its samples.

    Args:
        embedder: A built model.
        prompts: Tokens.
        samples: Rows per prompt.
        steps: Tokens that each row is going to be fed, at most.
    """
    longest = max(map(len, prompts))
    small = len(prompts) * samples * longest < _SMALL_CACHE
    if samples > 1 and not small and attends_to_all(embedder.causal_lm, longest + steps):
        return SharedDecoder(embedder, prompts, samples, steps)
    return PlainDecoder(embedder, prompts, samples, steps)


def attends_to_all(model: PreTrainedModel, longest: int) -> bool:
    """Whether tokens are known to attend to all before them, by position ids alone.

    Args:
        model: A causal LM.
        longest: Tokens of the longest prompt and completion together; a sliding window must hold them.
    """
    config: Any = model.config.get_text_config()
    return config.model_type in FAMILIES and (getattr(config, "sliding_window", None) or longest) >= longest


class PlainDecoder:
    """Every row has a copy of its prompt's cache; for any model.

    Args:
        embedder: A built model.
        prompts: Tokens.
        samples: Rows per prompt.
        steps: Tokens that each row is going to be fed, at most.
    """

    def __init__(self, embedder: ReasoningEmbedder, prompts: Sequence[Tokens], samples: int, steps: int) -> None:
        model = embedder.causal_lm
        self._decoder = model.base_model
        ids, mask, positions = pad(prompts, embedder.pad_id, "left", embedder.device)
        if attends_to_all(model, ids.shape[1] + steps):
            hidden, caches = _read(embedder, prompts)
            self._cache = Cache(layers=[ReservedLayer(*cache, samples, steps) for cache in caches])
        else:
            self._cache = DynamicCache(config=model.config)
            output = self._decoder(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=self._cache, use_cache=True
            )
            hidden = output.last_hidden_state[:, -1]
            self._cache.batch_repeat_interleave(samples)
        self.hidden = hidden.repeat_interleave(samples, 0)
        self._position = mask.sum(1).repeat_interleave(samples)
        self._mask = None if mask.all() else F.pad(mask, (0, steps), value=1).repeat_interleave(samples, 0)
        self._width = mask.shape[1]

    def feed(self, tokens: Int64[Tensor, "rows"]) -> None:
        """Reads one token of every row."""
        self._width += 1
        output = self._decoder(
            input_ids=tokens[:, None],
            attention_mask=None if self._mask is None else self._mask[:, : self._width],
            position_ids=self._position[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self.hidden = output.last_hidden_state[:, -1]
        self._position = self._position + 1

    def keep(self, chosen: Bool[Tensor, "rows"]) -> Int64[Tensor, "kept"]:
        """Drops all other rows; returns where each of the rows that are left stood before."""
        order = Kept(chosen).order
        self._cache.batch_select_indices(order)
        self.hidden, self._position = self.hidden[order], self._position[order]
        self._mask = None if self._mask is None else self._mask[order]
        return order


class SharedDecoder:
    """The cache of each prompt is stored once and read by all of its samples; for families of full attention.

    Args:
        embedder: A built model.
        prompts: Tokens.
        samples: Rows per prompt.
        steps: Tokens that each row is going to be fed, at most.
    """

    def __init__(self, embedder: ReasoningEmbedder, prompts: Sequence[Tokens], samples: int, steps: int) -> None:
        self._model = embedder.causal_lm
        device = embedder.device
        hidden, caches = _read(embedder, prompts)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        columns = torch.arange(int(lengths.max()), device=device)
        numbers = torch.arange(len(prompts), device=device).repeat_interleave(samples)
        self._slots = Slots(numbers, columns < (lengths.max() - lengths)[:, None])
        self._layers = [SharedLayer(*cache, len(numbers), steps, self._slots) for cache in caches]
        self._cache = Cache(layers=list(self._layers))
        self.hidden = hidden.repeat_interleave(samples, 0)
        self._position = lengths.repeat_interleave(samples)

    def feed(self, tokens: Int64[Tensor, "rows"]) -> None:
        """Reads one token of every row."""
        with _attention(self._model, NAME):
            output = self._model.base_model(
                input_ids=tokens[:, None],
                position_ids=self._position[:, None],
                past_key_values=self._cache,
                use_cache=True,
            )
        self.hidden = output.last_hidden_state[:, -1]
        self._position = self._position + 1

    def keep(self, chosen: Bool[Tensor, "rows"]) -> Int64[Tensor, "kept"]:
        """Drops all other rows; returns where each of the rows that are left stood before."""
        rows = Kept(chosen)
        prompts = self._slots.keep(rows)
        for layer in self._layers:
            layer.keep(rows, prompts)
        self.hidden, self._position = self.hidden[rows.order], self._position[rows.order]
        return rows.order


def _read(embedder: ReasoningEmbedder, prompts: Sequence[Tokens]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The last hidden state of each prompt, and keys and values of each layer, padded on the left.

    Prompts of like length share a forward pass.
    """
    model, lengths = embedder.causal_lm, [len(prompt) for prompt in prompts]
    hidden = torch.empty(0)
    layers: list[tuple[Tensor, Tensor]] = []
    for batch in length_batches(lengths, embedder.tokens_per_batch):
        ids, mask, positions = pad([prompts[row] for row in batch], embedder.pad_id, "left", embedder.device)
        cache: Any = DynamicCache(config=model.config)
        output = model.base_model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        last, states = output.last_hidden_state[:, -1], [(layer.keys, layer.values) for layer in cache.layers]
        if not layers:
            hidden = last.new_empty(len(prompts), last.shape[1])
            layers = [(_room(keys, prompts), _room(values, prompts)) for keys, values in states]
        rows = torch.tensor(batch, device=embedder.device)
        hidden[rows] = last
        for rooms, parts in zip(layers, states, strict=True):
            for room, part in zip(rooms, parts, strict=True):
                room[rows, :, room.shape[2] - part.shape[2] :] = part.to(room.dtype)
    return hidden, layers


def _room(states: Float[Tensor, "some heads columns width"], prompts: Sequence[Tokens]) -> Tensor:
    """Under autocast in the type that attention computes in, or every token would convert all of it again."""
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    return states.new_zeros(len(prompts), states.shape[1], max(map(len, prompts)), states.shape[3], dtype=dtype)


@contextmanager
def _attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Within it, the model attends by another function."""
    config: Any = model.config.get_text_config()
    before = config._attn_implementation  # noqa: SLF001 (the public setter checks every module, at every token)
    config._attn_implementation = name  # noqa: SLF001
    try:
        yield
    finally:
        config._attn_implementation = before  # noqa: SLF001
