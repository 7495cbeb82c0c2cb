"""Several completions behind one copy of their prompt: which belong together, and the mask that keeps them apart."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor
from transformers import PreTrainedModel

from srch3.backbones.batching import pad
from srch3.backbones.completions import Completions
from srch3.backbones.embed_token import embedding_matrix
from srch3.backbones.tokenization import Tokens

FAMILIES = frozenset(
    {"gemma", "gemma2", "gemma3_text", "gpt2", "granite", "llama", "mistral", "phi3", "qwen2", "qwen3"}
)
"""Families that know a token's place from its position id alone, so that completions can follow one another."""


class Unit(NamedTuple):
    """One sequence of a pass: a prompt, and one or several completions that each see it and themselves alone.

    Attributes:
        prompt: Tokens of the prompt.
        members: Numbers of the completions.
        length: Tokens of prompt and completions.
    """

    prompt: Tokens
    members: list[int]
    length: int


class Packed(NamedTuple):
    """A pass over several units.

    Attributes:
        ids: Tokens, padded on the right.
        positions: Of each token within its prompt or, behind it, its completion.
        mask: What to attend to: 1 at tokens where each unit has one completion, else a matrix per unit.
        before: Number, among all tokens of ``ids``, of the one before each counted target; completion by completion.
        last: The same of each completion's last token.
    """

    ids: Int64[Tensor, "units tokens"]
    positions: Int64[Tensor, "units tokens"]
    mask: Shaped[Tensor, "units *shape"]
    before: Int64[Tensor, "counted"]
    last: Int64[Tensor, "completions"]


def pairs_per_token(model: PreTrainedModel, longest: int) -> float:
    """What a token costs outside attention, in pairs of tokens that attend to each other, by their multiplications.

    Args:
        model: A causal LM.
        longest: Tokens of the longest prompt with its completion.

    Returns:
        Zero where a prompt cannot be shared, because of the family, of its attention, or of a sliding window.
    """
    config: Any = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or longest
    if config.model_type not in FAMILIES or attention(model) not in ("sdpa", "eager") or window < longest:
        return 0.0
    weights = sum(parameter.numel() for parameter in model.base_model.parameters()) - embedding_matrix(model).numel()
    return weights / float(config.num_hidden_layers * 2 * config.hidden_size)


def attention(model: PreTrainedModel) -> str | None:
    """Name of the model's implementation of attention."""
    return getattr(model.config, "_attn_implementation", None)


def arrange(
    prompts: Sequence[Tokens], owners: Sequence[int], completions: Completions, token_cost: float, budget: int
) -> list[Unit]:
    """Decides which completions share a copy of their prompt.

    A copy costs its tokens; sharing one costs pairs of tokens that do not see each other but are computed all the same.
    With prompts of P tokens and n completions of T tokens together, c copies cost about
    :math:`(cP + T) k + c (P + T / c)^2` pairs, where k is the cost of a token; the cheapest c is taken.

    Args:
        prompts: Tokens of the prompts.
        owners: Prompt of each completion.
        completions: What follows.
        token_cost: Of a token outside attention, in pairs; 0 where prompts cannot be shared.
        budget: Most tokens of a shared sequence.
    """
    groups: dict[int, list[int]] = {}
    for member, owner in enumerate(owners):
        groups.setdefault(owner, []).append(member)
    units = []
    for owner, members in groups.items():
        prompt, lengths = prompts[owner], {member: len(completions.inputs[member]) for member in members}
        copies = _copies(len(prompt), sum(lengths.values()), len(members), token_cost, budget)
        for part in _balanced(lengths, copies):
            units.append(Unit(prompt, part, len(prompt) + sum(lengths[member] for member in part)))
    return units


def _copies(prompt: int, tokens: int, count: int, token_cost: float, budget: int) -> int:
    if not token_cost:
        return count
    fewest = math.ceil(tokens / (budget - prompt)) if budget > prompt else count

    def cost(copies: int) -> float:
        return (copies * prompt + tokens) * token_cost + copies * (prompt + tokens / copies) ** 2

    return min(range(min(max(fewest, 1), count), count + 1), key=cost)


def _balanced(lengths: dict[int, int], parts: int) -> list[list[int]]:
    """Splits completions into parts of about as many tokens, the longest first."""
    split: list[list[int]] = [[] for _ in range(parts)]
    sums = [0] * parts
    for member in sorted(lengths, key=lambda member: -lengths[member]):
        lightest = sums.index(min(sums))
        split[lightest].append(member)
        sums[lightest] += lengths[member]
    return [sorted(part) for part in split if part]


def pack(units: Sequence[Unit], completions: Completions, pad_id: int, device: torch.device) -> Packed:
    """Lays units out as the rows of a pass."""
    rows, positions, owners, before, last = [], [], [], [], []
    width = max(unit.length for unit in units)
    for number, unit in enumerate(units):
        row, places, segments = list(unit.prompt), list(range(len(unit.prompt))), [0] * len(unit.prompt)
        for segment, member in enumerate(unit.members, 1):
            inputs, counted = completions.inputs[member], completions.counted[member]
            start = number * width + len(row)
            preceding = [number * width + len(unit.prompt) - 1, *range(start, start + len(inputs) - 1)]
            before += [place for place, counts in zip(preceding, counted, strict=True) if counts]
            last.append(start + len(inputs) - 1)
            row += inputs
            places += range(len(unit.prompt), len(unit.prompt) + len(inputs))
            segments += [segment] * len(inputs)
        rows.append(row)
        positions.append(places)
        owners.append(segments)
    ids, mask, _ = pad(rows, pad_id, "right", device)
    if any(len(unit.members) > 1 for unit in units):
        mask = _visible(pad(owners, -1, "right", device)[0])
    where = (torch.tensor(places, dtype=torch.int64, device=device) for places in (before, last))
    return Packed(ids, pad(positions, 0, "right", device)[0], mask, *where)


def _visible(segments: Int64[Tensor, "units tokens"]) -> Bool[Tensor, "units 1 tokens tokens"]:
    """Each token sees the prompt (segment 0) and its own segment, up to itself; so does padding, of its own kind."""
    same = segments[:, :, None] == segments[:, None, :]
    prompt = (segments == 0)[:, None, :] & (segments >= 0)[:, :, None]
    return (same | prompt).tril()[:, None]
