"""Rollouts: thoughts sampled from the model, and the embedding that each one ends in."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from srch3.backbones.batching import length_batches
from srch3.backbones.decoding import attends_to_all, start
from srch3.backbones.reasoning_embedder import Completions, ReasoningEmbedder, Tokens
from srch3.backbones.sampling import choose, draw_uniforms
from srch3.errors import NumericError
from srch3.functional.similarity import at_least_float32, normalise

_CACHED_PASSES = 8


class Rollouts(NamedTuple):
    """Completions of a batch of prompts; the samples of one prompt follow each other.

    Attributes:
        completions: Sampled tokens, ready for a teacher-forced pass.
        logprobs: Log-probability of each sampled token at the sampling temperature, one tensor per completion, as long
            as its counted targets.
        embeddings: Read in the generating pass itself, unit length, float32.
        emitted: False where the embed token was forced.
        truncated: True where the tokens were used up: neither the embed token nor an end of turn was written.
    """

    completions: Completions
    logprobs: list[Float[Tensor, "tokens"]]
    embeddings: Float[Tensor, "batch dim"]
    emitted: Bool[Tensor, "batch"]
    truncated: Bool[Tensor, "batch"]


class _Written(NamedTuple):
    """What was written, one row per completion; columns beyond its length are of no meaning."""

    tokens: Int64[Tensor, "rollouts limit"]
    logprobs: Float[Tensor, "rollouts limit"]
    lengths: Int64[Tensor, "rollouts"]
    truncated: Bool[Tensor, "rollouts"]
    embeddings: Float[Tensor, "rollouts dim"]


@torch.no_grad()
def generate(
    embedder: ReasoningEmbedder,
    prompts: Sequence[Tokens],
    samples: int = 1,
    temperature: float = 1.0,
    max_tokens: int | None = None,
    seeds: Sequence[int] | None = None,
    on_tokens: Callable[[Tokens], None] | None = None,
) -> Rollouts:
    """Lets the model think about each prompt until it emits the embed token.

    Each prompt is read once, and its cache shared by its samples. A sequence that ends otherwise, with an end of turn
    or by using up its tokens, has the embed token forced upon it, so that it has an embedding too. Finished sequences
    leave the batch at once. A completion depends on its prompt's seed and the number of the sample, but not on what is
    generated beside it (up to the rounding of the model's own arithmetic).

    Prompts are read in passes of ``embedder.tokens_per_batch`` tokens. So many are continued together as have a cache
    of eight times as many; of models that are not known to attend to all tokens, as have a cache of these alone.

    Args:
        embedder: A built model; it is put into evaluation mode for the time being.
        prompts: Tokens of thinking prompts.
        samples: Completions per prompt.
        temperature: 0 takes the likeliest token each time.
        max_tokens: Longest thought; the embedder's own limit by default. With 0, the embed token follows at once.
        seeds: One per prompt, >= 0; needed unless the temperature is 0.
        on_tokens: Called after each step with its tokens, one of each completion that was not finished before; what it
            raises ends the generation.

    Raises:
        NumericError: The model's weights have diverged.
    """
    if temperature > 0 and len(seeds or ()) != len(prompts):
        raise ValueError(f"seeds: expected one per prompt, which are {len(prompts)}, got {seeds}")
    limit = embedder.max_thought_tokens if max_tokens is None else max_tokens
    uniforms = draw_uniforms(seeds, samples, limit) if temperature > 0 and seeds is not None else None
    order, parts = [], []
    was_training = embedder.training
    embedder.eval()
    try:
        for batch in _batches(embedder, prompts, samples, limit):
            rows = [row * samples + sample for row in batch for sample in range(samples)]
            chosen = [prompts[row] for row in batch]
            drawn = None if uniforms is None else uniforms[rows].to(embedder.device)
            with torch.inference_mode():
                parts.append(_write(embedder, chosen, samples, temperature, limit, drawn, on_tokens))
            order += rows
    finally:
        embedder.train(was_training)
    back = torch.tensor(order, device=embedder.device).argsort()
    return _collect(_Written(*(torch.cat(fields)[back] for fields in zip(*parts, strict=True))), embedder)


def _batches(embedder: ReasoningEmbedder, prompts: Sequence[Tokens], samples: int, limit: int) -> Iterator[list[int]]:
    """Prompts whose cache is held at the same time; of like length, where that takes more than one batch."""
    known = attends_to_all(embedder.causal_lm, max(map(len, prompts)) + limit + 1)
    copies, passes = (1, _CACHED_PASSES) if known else (samples, 1)
    cached = [copies * len(prompt) + samples * (limit + 1) for prompt in prompts]
    return length_batches(cached, passes * embedder.tokens_per_batch, max_waste=1.0)


def _write(
    embedder: ReasoningEmbedder,
    prompts: Sequence[Tokens],
    samples: int,
    temperature: float,
    limit: int,
    uniforms: Float64[Tensor, "rollouts limit"] | None,
    on_tokens: Callable[[Tokens], None] | None,
) -> _Written:
    count, device, embed_id = len(prompts) * samples, embedder.device, embedder.embed_token_id
    stops = torch.tensor(embedder.stop_ids, device=device)
    decoder = start(embedder, prompts, samples, limit + 1)
    written = _Written(
        torch.full((count, limit), embed_id, device=device),
        torch.zeros(count, limit, dtype=torch.float32, device=device),
        torch.full((count,), limit, device=device),
        torch.ones(count, dtype=torch.bool, device=device),
        at_least_float32(decoder.hidden.new_zeros(count, embedder.dim)),
    )
    rows = torch.arange(count, device=device)
    for step in range(limit):
        drawn = None if uniforms is None else uniforms[:, step]
        tokens, logprobs = choose(embedder.logits(decoder.hidden), temperature, drawn)
        written.tokens[rows, step], written.logprobs[rows, step] = tokens, logprobs
        if on_tokens:
            on_tokens(tokens.tolist())
        ends = torch.isin(tokens, stops)
        if not ends.any():
            decoder.feed(tokens)
            continue
        decoder.feed(tokens.masked_fill(ends, embed_id))
        finished = rows[ends]
        written.lengths[finished], written.truncated[finished] = step + 1, False
        written.embeddings[finished] = normalise(decoder.hidden[ends])
        if ends.all():
            return written
        order = decoder.keep(~ends)
        rows, uniforms = rows[order], None if uniforms is None else uniforms[order]
    decoder.feed(torch.full_like(rows, embed_id))
    written.embeddings[rows] = normalise(decoder.hidden)
    return written


def _collect(written: _Written, embedder: ReasoningEmbedder) -> Rollouts:
    if not written.logprobs.isfinite().all():
        raise NumericError(
            "the model's next-token probabilities are no longer numbers: its weights have diverged; go back to the "
            "last good checkpoint and lower the learning rate, or set trainer.gradient_clip_val"
        )
    embed_id, lengths = embedder.embed_token_id, written.lengths.tolist()
    completions, emitted = Completions([], [], []), []
    for tokens, length, truncated in zip(written.tokens.tolist(), lengths, written.truncated.tolist(), strict=True):
        sampled = tokens[:length]
        forced = [embed_id] if truncated else []
        completions.inputs.append([*(sampled if truncated else sampled[:-1]), embed_id])
        completions.targets.append(sampled + forced)
        completions.counted.append([True] * length + [False] * len(forced))
        emitted.append(not truncated and sampled[-1] == embed_id)
    return Rollouts(
        completions,
        [row[:length] for row, length in zip(written.logprobs, lengths, strict=True)],
        written.embeddings,
        torch.tensor(emitted, device=embedder.device),
        written.truncated,
    )
