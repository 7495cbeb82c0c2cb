"""Both sides' ways to write completions, and the bare model's."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from experiments.benchmarks.rollout.settings import Shape
from srch3.backbones import ReasoningEmbedder, generate


class Wrote(NamedTuple):
    """What a side wrote.

    Attributes:
        tokens: Of each completion, the embed token at its end included.
    """

    tokens: list[list[int]]

    @property
    def useful(self) -> int:
        """Useful tokens."""
        return sum(map(len, self.tokens))


def ours(embedder: ReasoningEmbedder, prompts: Int64[Tensor, "prompts tokens"], shape: Shape, seed: int) -> Wrote:
    """Completions with log-probabilities and embeddings."""
    seeds = [seed * len(prompts) + number for number in range(len(prompts))]
    temperature = 0.0 if shape.greedy else 1.0
    rollouts = generate(embedder, prompts.tolist(), shape.samples, temperature, shape.longest, seeds)
    lengths = map(len, rollouts.logprobs)
    return Wrote([row[:length] for row, length in zip(rollouts.completions.targets, lengths, strict=True)])


def theirs(embedder: ReasoningEmbedder, prompts: Int64[Tensor, "prompts tokens"], shape: Shape, seed: int) -> Wrote:
    """Completions alone."""
    torch.manual_seed(seed)
    ids = prompts.to(embedder.device)
    sampling = {"do_sample": False} if shape.greedy else {"do_sample": True, "top_k": 0, "top_p": 1.0}
    model: Any = embedder.causal_lm
    written = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=shape.longest,
        num_return_sequences=shape.samples,
        eos_token_id=embedder.stop_ids,
        pad_token_id=embedder.pad_id,
        **sampling,
    )
    return Wrote([_until_stop(row, embedder.stop_ids) for row in written[:, prompts.shape[1] :].tolist()])


def _until_stop(tokens: list[int], stops: Sequence[int]) -> list[int]:
    ends = [place for place, token in enumerate(tokens) if token in stops]
    return tokens[: ends[0] + 1] if ends else tokens


@contextmanager
def passes(embedder: ReasoningEmbedder) -> Iterator[list[tuple[int, int]]]:
    """Notes rows and columns of what the model reads."""
    seen: list[tuple[int, int]] = []

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        rows, columns = inputs[0].shape
        seen.append((rows, columns))

    hook = embedder.causal_lm.get_input_embeddings().register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


@torch.no_grad()
def bare(embedder: ReasoningEmbedder, schedule: Sequence[tuple[int, int]], ids: Int64[Tensor, "rows columns"]) -> None:
    """The model's own forward passes over tokens that are there already: no cache, no masks, nothing chosen.

    Args:
        embedder: The model.
        schedule: Rows and columns of each pass.
        ids: Holds the widest and the longest of them.
    """
    model = embedder.causal_lm
    for rows, columns in schedule:
        hidden = model.base_model(input_ids=ids[:rows, :columns], use_cache=False).last_hidden_state[:, -1]
        embedder.logits(hidden)
