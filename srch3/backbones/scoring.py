"""Teacher-forced passes over sampled completions: how likely the model finds them, and where their embeddings are."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
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
            computed again in the backward pass. By default all activations are kept.
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
    embeddings = torch.cat(last)[torch.tensor(order, device=device).argsort()]
    return _in_place(embedder, torch.cat(before), order, completions, temperature, normalise(embeddings))


def _read(embedder: ReasoningEmbedder, packed: Packed) -> tuple[Tensor, Tensor]:
    """Hidden states before each counted target, and at the end of each completion."""
    mask = packed.mask
    if mask.ndim == 4 and attention(embedder.causal_lm) == "eager":
        dtype = embedder.causal_lm.dtype
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    hidden = embedder.hidden_states(packed.ids, mask, packed.positions).flatten(0, 1)
    return hidden.index_select(0, packed.before), hidden.index_select(0, packed.last)


def _in_place(
    embedder: ReasoningEmbedder,
    hidden: Float[Tensor, "counted dim"],
    order: Sequence[int],
    completions: Completions,
    temperature: float,
    embeddings: Float[Tensor, "rollouts dim"],
) -> Scores:
    """Log-probabilities and entropies as matrices, from hidden states that follow the completions in some order."""
    shape = len(order), max(map(len, completions.targets))
    places, targets = [], []
    for row in order:
        for column, (target, counts) in enumerate(zip(completions.targets[row], completions.counted[row], strict=True)):
            if counts:
                places.append(row * shape[1] + column)
                targets.append(target)
    where = torch.tensor(places, dtype=torch.int64, device=hidden.device)
    chosen = torch.tensor(targets, dtype=torch.int64, device=hidden.device)
    flat = next_token_log_probs(embedder.causal_lm, hidden, chosen, temperature)
    empty = flat.logprobs.new_zeros(shape[0] * shape[1])
    counted = torch.zeros_like(empty, dtype=torch.bool).index_fill(0, where, True)
    return Scores(
        empty.index_copy(0, where, flat.logprobs).view(shape),
        empty.index_copy(0, where, flat.entropy).view(shape),
        counted.view(shape),
        embeddings,
    )
