"""Rollouts: thoughts sampled from the model, and the embedding that each one ends in."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DynamicCache

from srch3.backbones.batching import pad
from srch3.backbones.reasoning_embedder import Completions, ReasoningEmbedder, Tokens
from srch3.errors import NumericError
from srch3.functional.similarity import at_least_float32, normalise


class Rollouts(NamedTuple):
    """Completions of a batch of prompts; the samples of one prompt follow each other.

    Attributes:
        completions: Sampled tokens, ready for a teacher-forced pass.
        logprobs: Log-probability of each sampled token at the sampling temperature, one tensor per completion, as long
            as its counted targets.
        embeddings: Read in the generating pass itself, unit length, float32.
        emitted: False where the embed token was forced.
    """

    completions: Completions
    logprobs: list[Float[Tensor, "tokens"]]
    embeddings: Float[Tensor, "batch dim"]
    emitted: Bool[Tensor, "batch"]


class _Live:
    """The sequences that are still being written: their rows of the cache, and their state."""

    def __init__(self, embedder: ReasoningEmbedder, prompts: Sequence[Tokens], samples: int, steps: int) -> None:
        self.decoder = embedder.causal_lm.base_model
        ids, mask, positions = pad(prompts, embedder.pad_id, "left", embedder.device)
        self.cache = DynamicCache(config=embedder.causal_lm.config)
        output = self.decoder(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True
        )
        self.cache.batch_repeat_interleave(samples)
        self.hidden = output.last_hidden_state[:, -1].repeat_interleave(samples, 0)
        self.position = mask.sum(1).repeat_interleave(samples)
        tail = torch.ones(len(prompts) * samples, steps, dtype=mask.dtype, device=mask.device)
        self.mask = torch.cat([mask.repeat_interleave(samples, 0), tail], 1)
        self.width = mask.shape[1]
        self.rows = torch.arange(len(prompts) * samples, device=mask.device)

    def feed(self, tokens: Tensor) -> None:
        """Reads one token of every sequence and sets ``hidden`` to the states there."""
        self.width += 1
        output = self.decoder(
            input_ids=tokens[:, None],
            attention_mask=self.mask[:, : self.width],
            position_ids=self.position[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.hidden = output.last_hidden_state[:, -1]
        self.position = self.position + 1

    def keep(self, kept: Tensor) -> None:
        """Drops all other sequences."""
        self.cache.batch_select_indices(kept)
        self.hidden, self.position = self.hidden[kept], self.position[kept]
        self.mask, self.rows = self.mask[kept], self.rows[kept]


@torch.no_grad()
def generate(
    embedder: ReasoningEmbedder,
    prompts: Sequence[Tokens],
    samples: int = 1,
    temperature: float = 1.0,
    max_tokens: int | None = None,
    generator: torch.Generator | None = None,
) -> Rollouts:
    """Lets the model think about each prompt until it emits the embed token.

    Each prompt is read once, and its cache shared by its samples. A sequence that ends otherwise, with an end of turn
    or by using up its tokens, has the embed token forced upon it, so that it has an embedding too. Finished sequences
    leave the batch once they make up a quarter of it.

    Args:
        embedder: A built model; it is put into evaluation mode for the time being.
        prompts: Tokens of thinking prompts.
        samples: Completions per prompt.
        temperature: 0 takes the likeliest token each time.
        max_tokens: Longest thought; the embedder's own limit by default. With 0, the embed token follows at once.
        generator: Source of randomness, on the model's device.

    Raises:
        NumericError: The model's weights have diverged.
    """
    was_training = embedder.training
    embedder.eval()
    try:
        return _generate(embedder, prompts, samples, temperature, max_tokens, generator)
    except RuntimeError as error:
        if "probability tensor contains" not in str(error):
            raise
        raise NumericError(
            "the model's next-token probabilities are no longer numbers: its weights have diverged; go back to the "
            "last good checkpoint and lower the learning rate, or set trainer.gradient_clip_val"
        ) from error
    finally:
        embedder.train(was_training)


def _generate(
    embedder: ReasoningEmbedder,
    prompts: Sequence[Tokens],
    samples: int,
    temperature: float,
    max_tokens: int | None,
    generator: torch.Generator | None,
) -> Rollouts:
    limit = embedder.max_thought_tokens if max_tokens is None else max_tokens
    count, device, embed_id = len(prompts) * samples, embedder.device, embedder.embed_token_id
    stops = torch.tensor(embedder.stop_ids, device=device)
    live = _Live(embedder, prompts, samples, limit + 1)
    targets = torch.full((count, limit + 1), embed_id, device=device)
    logprobs = torch.zeros(count, limit + 1, device=device, dtype=torch.float32)
    lengths = torch.zeros(count, dtype=torch.int64, device=device)
    emitted = torch.zeros(count, dtype=torch.bool, device=device)
    embeddings = at_least_float32(live.hidden.new_zeros(count, embedder.dim))
    done = torch.zeros(count, dtype=torch.bool, device=device)
    for step in range(limit + 1):
        rows = live.rows
        fed = torch.full_like(rows, embed_id)
        if step < limit:
            tokens, logprob = _choose(embedder.logits(live.hidden), temperature, generator)
            writing = ~done[rows]
            targets[rows[writing], step] = tokens[writing]
            logprobs[rows[writing], step] = logprob[writing]
            lengths[rows[writing]] = step + 1
            emitted[rows[writing]] = (tokens == embed_id)[writing]
            ends = torch.isin(tokens, stops) | done[rows]
            fed = torch.where(ends, embed_id, tokens)
        live.feed(fed)
        ending = (fed == embed_id) & ~done[rows]
        embeddings[rows[ending]] = normalise(live.hidden[ending])
        done[rows[ending]] = True
        going = (~done[rows]).nonzero()[:, 0]
        if len(going) == 0:
            break
        if len(going) <= 0.75 * len(rows):
            live.keep(going)
    return _collect(targets, logprobs, lengths, embeddings, emitted, embedder)


def _choose(logits: Tensor, temperature: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    if temperature == 0:
        logprobs = logits.log_softmax(-1)
        tokens = logits.argmax(-1)
    else:
        logprobs = (logits / temperature).log_softmax(-1)
        tokens = torch.multinomial(logprobs.exp(), 1, generator=generator)[:, 0]
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def _collect(
    targets: Tensor,
    logprobs: Tensor,
    lengths: Tensor,
    embeddings: Tensor,
    emitted: Tensor,
    embedder: ReasoningEmbedder,
) -> Rollouts:
    embed_id = embedder.embed_token_id
    completions = Completions([], [], [])
    for tokens, length in zip(targets.tolist(), lengths.tolist(), strict=True):
        sampled = tokens[:length]
        if sampled and sampled[-1] in embedder.stop_ids:
            inputs, counted = [*sampled[:-1], embed_id], [True] * length
        else:
            inputs, counted, sampled = [*sampled, embed_id], [True] * length + [False], [*sampled, embed_id]
        completions.inputs.append(inputs)
        completions.targets.append(sampled)
        completions.counted.append(counted)
    return Rollouts(
        completions, [row[:length] for row, length in zip(logprobs, lengths.tolist(), strict=True)], embeddings, emitted
    )
