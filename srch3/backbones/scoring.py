"""Teacher-forced passes over sampled completions: how likely the model finds them, and where their embeddings are."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from srch3.backbones.batching import length_batches
from srch3.backbones.caching import recomputed
from srch3.backbones.completions import Completions
from srch3.backbones.logits import next_token_log_probs
from srch3.backbones.packing import Packed, arrange, attention, pack, pairs_per_token
from srch3.backbones.reasoning_embedder import ReasoningEmbedder
from srch3.backbones.tokenization import Tokens
from srch3.functional.similarity import normalise


class Scores(NamedTuple):
    """What the model makes of given completions; columns are their tokens, prompts not included.

    Attributes:
        logprobs: Log-probability of each counted target at the temperature, zero elsewhere.
        entropy: Entropy, in nats, of what each of them was chosen from, without gradient; zero elsewhere.
        counted: Where a target counts.
        embeddings: At the last token of each completion, unit length, float32.
    """

    logprobs: Float[Tensor, "rollouts tokens"]
    entropy: Float[Tensor, "rollouts tokens"]
    counted: Bool[Tensor, "rollouts tokens"]
    embeddings: Float[Tensor, "rollouts dim"]


def score_completions(
    embedder: ReasoningEmbedder,
    prompts: Sequence[Tokens],
    owners: Sequence[int],
    completions: Completions,
    temperature: float = 1.0,
    cache_tokens: int | None = None,
) -> Scores:
    """Reads completions behind their prompts, each prompt as seldom as pays.

    The completions of a prompt follow one copy of it, or a few, in one sequence; a mask and the position ids make each
    of them as it would be alone. Sequences of like length share a forward pass, and logits are computed of the counted
    targets only. Gradients flow unless the caller turned them off.

    Args:
        embedder: A built model.
        prompts: Tokens of the prompts.
        owners: Prompt of each completion.
        completions: What follows the prompts; targets may all be uncounted.
        temperature: Of the sampling; > 0.
        cache_tokens: Tokens, padding included, of a pass whose activations are kept for gradients; the passes are then
            computed again in the backward pass, and logits too, of a quarter as many tokens at a time. By default all
            activations are kept.
    """
    budget, device = cache_tokens or embedder.tokens_per_batch, embedder.device
    longest = max(len(prompts[owner]) + len(inputs) for owner, inputs in zip(owners, completions.inputs, strict=True))
    units = arrange(prompts, owners, completions, pairs_per_token(embedder.causal_lm, longest), budget)
    before, last, order = [], [], []
    for batch in length_batches([unit.length for unit in units], budget):
        some = [units[number] for number in batch]
        packed = pack(some, completions, embedder.pad_id, device)
        states = recomputed(partial(_read, embedder, packed), cache_tokens is not None, device)
        before.append(states[0])
        last.append(states[1])
        order += [member for unit in some for member in unit.members]
    shape, where, targets = _targets(order, completions, device)
    at_once = max(1, cache_tokens // 4) if cache_tokens else None
    found = next_token_log_probs(embedder.causal_lm, torch.cat(before), targets, temperature, at_once)
    logprobs, entropy, counted = (
        values.new_zeros(shape).flatten().index_copy(0, where, values).view(shape)
        for values in (*found, torch.ones_like(where, dtype=torch.bool))
    )
    embeddings = torch.cat(last)[torch.tensor(order, device=device).argsort()]
    return Scores(logprobs, entropy, counted, normalise(embeddings))


def _read(embedder: ReasoningEmbedder, packed: Packed) -> tuple[Tensor, Tensor]:
    """Hidden states before each counted target, and at the end of each completion."""
    mask = packed.mask
    if mask.ndim == 4 and attention(embedder.causal_lm) == "eager":
        dtype = embedder.causal_lm.dtype
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    hidden = embedder.hidden_states(packed.ids, mask, packed.positions).flatten(0, 1)
    return hidden.index_select(0, packed.before), hidden.index_select(0, packed.last)


def _targets(
    order: Sequence[int], completions: Completions, device: torch.device
) -> tuple[tuple[int, int], Int64[Tensor, "counted"], Int64[Tensor, "counted"]]:
    """Shape of the scores, and of the counted targets, in the order of the completions, places in it and tokens."""
    shape = len(order), max(map(len, completions.targets))
    places, tokens = [], []
    for row in order:
        for column, (target, counts) in enumerate(zip(completions.targets[row], completions.counted[row], strict=True)):
            if counts:
                places.append(row * shape[1] + column)
                tokens.append(target)
    where, targets = (torch.tensor(values, dtype=torch.int64, device=device) for values in (places, tokens))
    return shape, where, targets
