"""Padding and batching of token sequences."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor


def pad(
    sequences: Sequence[Sequence[int]], pad_id: int, side: Literal["left", "right"], device: torch.device | str = "cpu"
) -> tuple[Int64[Tensor, "batch seq"], Int64[Tensor, "batch seq"], Int64[Tensor, "batch seq"]]:
    """Puts sequences of unequal length into one matrix.

    Returns:
        The token ids; a mask that is 1 at tokens and 0 at padding; and positions that count tokens alone, so that
        padding moves none of them.
    """
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        place = slice(width - len(sequence), width) if side == "left" else slice(0, len(sequence))
        ids[row, place] = torch.tensor(sequence, dtype=torch.int64)
        mask[row, place] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return ids.to(device), mask.to(device), positions.to(device)


def length_batches(lengths: Sequence[int], max_tokens: int, max_waste: float = 0.15) -> Iterator[list[int]]:
    """Groups sequences of like length, longest first, so that little is computed on padding.

    A batch ends where one more sequence would exceed the token budget, or where padding would exceed ``max_waste`` of
    the batch and the batch already has 16 sequences (smaller ones cost more in overhead than they save).

    Args:
        lengths: Tokens of each sequence.
        max_tokens: Budget of a batch, padding included; a longer single sequence makes a batch of its own.
        max_waste: Largest share of padding.

    Yields:
        Indices into ``lengths``; every index once.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batch: list[int] = []
    tokens = 0
    for index in order:
        padded = (len(batch) + 1) * (lengths[batch[0]] if batch else lengths[index])
        wasteful = len(batch) >= 16 and padded - tokens - lengths[index] > max_waste * padded
        if batch and (padded > max_tokens or wasteful):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch
