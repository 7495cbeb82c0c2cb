"""Attention of several completions to one stored copy of their prompt."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from srch3.backbones.reserved import Kept

NAME = "srch3_shared_prompts"
"""Of the attention function, as a model's config names it."""


class Slots:
    """Where the rows that are being written stand among the samples of their prompts.

    Rows leave in any order; a prompt with fewer rows than others has empty slots.

    Args:
        prompts: Prompt of each row, numbered without a gap.
        padding: True where a column of a prompt is padding.
    """

    def __init__(self, prompts: Int64[Tensor, "rows"], padding: Bool[Tensor, "prompts columns"]) -> None:
        self.prompts = prompts
        self.padding = padding
        self.bias = torch.zeros(padding.shape, device=padding.device).masked_fill(padding, -torch.inf)[:, None, None]
        self.padded = bool(padding.any())
        self.arrange()

    def arrange(self) -> None:
        """Gives each row the next free slot of its prompt."""
        rows, counts = len(self.prompts), self.prompts.bincount(minlength=len(self.padding))
        self.size = int(counts.max())
        order = self.prompts.argsort(stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(rows, device=order.device) - (counts.cumsum(0) - counts)[self.prompts[order]]
        self.slot = self.prompts * self.size + rank
        self.row = torch.zeros(len(self.padding) * self.size, dtype=torch.int64, device=order.device)
        self.row[self.slot] = torch.arange(rows, device=order.device)
        self.ordered = len(self.row) == rows and bool((self.slot == self.row).all())

    def keep(self, rows: Kept) -> Kept:
        """Drops all other rows, and the prompts that nobody continues; returns which prompts are left."""
        prompts = self.prompts[rows.order]
        kept = Kept(prompts.bincount(minlength=len(self.padding)) > 0)
        numbers = prompts.new_empty(len(self.padding))
        numbers[kept.order] = torch.arange(kept.count, device=prompts.device)
        self.prompts, self.padding, self.bias = numbers[prompts], self.padding[kept.order], self.bias[kept.order]
        self.arrange()
        return kept

    def by_prompt(self, values: Float[Tensor, "rows heads group width"]) -> Float[Tensor, "prompts heads slots width"]:
        """The rows of each prompt side by side; an empty slot holds another row's values."""
        _, heads, group, width = values.shape
        filled = values if self.ordered else values[self.row]
        spread = filled.view(len(self.padding), self.size, heads, group, width).transpose(1, 2)
        return spread.reshape(len(self.padding), heads, self.size * group, width)

    def by_row(self, values: Float[Tensor, "prompts heads slots width"]) -> Float[Tensor, "rows heads group width"]:
        """The inverse of `by_prompt`."""
        prompts, heads, slots, width = values.shape
        spread = values.view(prompts, heads, self.size, slots // self.size, width).transpose(1, 2)
        filled = spread.reshape(prompts * self.size, heads, slots // self.size, width)
        return filled if self.ordered else filled[self.slot]


class SharedLayer(DynamicLayer):
    """One layer's cache: the prompts, each stored once, and what each row has written, in memory reserved beforehand.

    Args:
        keys: Of the prompts.
        values: Of the prompts.
        rows: Completions to be written.
        steps: Longest completion.
        slots: Which row belongs to which prompt.
    """

    def __init__(
        self,
        keys: Float[Tensor, "prompts heads columns width"],
        values: Float[Tensor, "prompts heads columns width"],
        rows: int,
        steps: int,
        slots: Slots,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.prompt_keys, self.prompt_values, self.slots = keys, values, slots
        self.own_keys = keys.new_empty(rows, keys.shape[1], steps, keys.shape[3])
        self.own_values = values.new_empty(rows, values.shape[1], steps, values.shape[3])
        self.length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Stores a token of every row, and hands the whole layer to `attend` in place of keys and values."""
        self.own_keys.narrow(2, self.length, 1).copy_(key_states)
        self.own_values.narrow(2, self.length, 1).copy_(value_states)
        self.length += 1
        return self, self

    def keep(self, rows: Kept, prompts: Kept) -> None:
        """Drops all other rows, and the prompts that nobody continues."""
        own = slice(None), slice(None), slice(self.length)
        self.own_keys, self.own_values = rows.of(self.own_keys, own), rows.of(self.own_values, own)
        self.prompt_keys, self.prompt_values = prompts.of(self.prompt_keys), prompts.of(self.prompt_values)

    def get_seq_length(self) -> int:
        """Columns so far."""
        return self.prompt_keys.shape[2] + self.length


def attend(
    module: nn.Module,
    query: Float[Tensor, "rows heads 1 width"],
    key: SharedLayer,
    value: SharedLayer,
    attention_mask: None,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "rows 1 heads width"], None]:
    """One softmax over the prompt, which the rows of a prompt read together, and each row's own tokens."""
    slots, columns, heads = key.slots, key.prompt_keys.shape[2], key.prompt_keys.shape[1]
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    grouped = (query * scale).view(len(query), heads, -1, query.shape[3])
    read = slots.by_prompt(grouped) @ key.prompt_keys.transpose(2, 3)
    own = grouped @ key.own_keys[:, :, : key.length].transpose(2, 3)
    if softcap is not None:
        read, own = torch.tanh(read / softcap) * softcap, torch.tanh(own / softcap) * softcap
    if slots.padded:
        read = read + slots.bias.to(read.dtype)
    scores = torch.cat([slots.by_row(read), own], -1)
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    output = weights[..., columns:] @ key.own_values[:, :, : key.length]
    output = output + slots.by_row(slots.by_prompt(weights[..., :columns]) @ key.prompt_values)
    return output.reshape(len(query), 1, query.shape[1], -1), None


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
