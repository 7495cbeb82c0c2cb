"""Memory that is reserved beforehand for what is going to be written, and that rows leave without its being copied."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class Kept:
    """A choice of rows, made in place: the last of those kept move to where others leave.

    Args:
        chosen: True for a row that is kept.
    """

    def __init__(self, chosen: Bool[Tensor, "rows"]) -> None:
        places = torch.arange(len(chosen), device=chosen.device)
        self.count = int(chosen.sum())
        self.all = self.count == len(chosen)
        self.free = places[: self.count][~chosen[: self.count]]
        self.moved = places[self.count :][chosen[self.count :]]
        self.order = places[: self.count]
        self.order[self.free] = self.moved

    def of(self, values: Tensor, used: tuple[slice, ...] = ()) -> Tensor:
        """The chosen rows in their new order; the tensor given is overwritten.

        Args:
            values: One row each.
            used: What part of the tensor holds anything.
        """
        if self.all:
            return values
        part = values[used] if used else values
        part[self.free] = part[self.moved]
        return values[: self.count]


class ReservedLayer(DynamicLayer):
    """One layer's cache with room for more columns, which are written in place instead of being appended to a copy.

    Args:
        keys: Of the prompts.
        values: Of the prompts.
        samples: Rows per prompt, each with a copy of it.
        steps: Columns to come.
    """

    def __init__(
        self,
        keys: Float[Tensor, "prompts heads columns width"],
        values: Float[Tensor, "prompts heads columns width"],
        samples: int,
        steps: int,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_initialized = True
        self._rooms = [_room(states, samples, steps) for states in (keys, values)]
        self._show(keys.shape[2])

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Stores the next tokens; returns all keys and values so far."""
        before, more = self.get_seq_length(), key_states.shape[2]
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room.narrow(2, before, more).copy_(states)
        return self._show(before + more)

    def batch_select_indices(self, indices: Int64[Tensor, "rows"]) -> None:
        """Drops all other rows; those whose place does not change are not copied."""
        columns = self.get_seq_length()
        changed = (indices != torch.arange(len(indices), device=indices.device)).nonzero()[:, 0]
        for room in self._rooms:
            used = room.narrow(2, 0, columns)
            used[changed] = used[indices[changed]]
        self._rooms = [room[: len(indices)] for room in self._rooms]
        self._show(columns)

    def _show(self, columns: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (room.narrow(2, 0, columns) for room in self._rooms)
        return self.keys, self.values


def _room(states: Float[Tensor, "prompts heads columns width"], samples: int, steps: int) -> Tensor:
    prompts, heads, columns, width = states.shape
    room = states.new_empty(prompts, samples, heads, columns + steps, width)
    room[:, :, :, :columns] = states[:, None]
    return room.flatten(0, 1)
