"""Choosing the next token, so that a completion depends on nothing that is computed beside it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 128
_BELOW_ONE = 1 - 2.0**-50


class Choice(NamedTuple):
    """One next token for each sequence.

    Attributes:
        tokens: The tokens.
        logprobs: Of these, in nats, at the temperature.
    """

    tokens: Int64[Tensor, "rows"]
    logprobs: Float[Tensor, "rows"]


def draw_uniforms(seeds: Sequence[int], samples: int, positions: int) -> Float64[Tensor, "rollouts positions"]:
    """Uniform numbers in [0, 1); each depends on the seed of its prompt, the number of its sample and its position.

    Args:
        seeds: One per prompt, >= 0.
        samples: Completions per prompt.
        positions: Numbers per completion.
    """
    streams = [np.random.Generator(np.random.PCG64((seed, sample))) for seed in seeds for sample in range(samples)]
    return torch.from_numpy(np.stack([stream.random(positions) for stream in streams]))


def choose(
    logits: Float[Tensor, "rows vocabulary"], temperature: float, uniforms: Float64[Tensor, "rows"] | None = None
) -> Choice:
    """The token at which the cumulative distribution exceeds the uniform number; the likeliest one without numbers.

    Args:
        logits: In float32.
        temperature: Of the distribution; 0 takes the likeliest token, and gives its log-probability at 1.
        uniforms: One per row, in [0, 1); needed unless the temperature is 0.

    Returns:
        A log-probability is not a number where the logits are not.
    """
    probabilities = (logits / temperature if temperature not in (0, 1) else logits).softmax(-1)
    tokens = logits.argmax(-1) if uniforms is None else _invert(probabilities, uniforms)
    return Choice(tokens, probabilities.gather(1, tokens[:, None])[:, 0].log())


def _invert(
    probabilities: Float[Tensor, "rows vocabulary"], uniforms: Float64[Tensor, "rows"]
) -> Int64[Tensor, "rows"]:
    """The inverse of the cumulative distribution: first the block of tokens, then the token in it.

    Sums are accumulated in float64, since over a large vocabulary those in float32 lose the rare tokens. Comparisons
    are strict, so that a token of probability zero, at which the sum does not grow, is never taken.
    """
    filled = F.pad(probabilities, (0, -probabilities.shape[1] % _BLOCK)).unflatten(1, (-1, _BLOCK))
    sums = _running_sums(filled.sum(-1))
    target = uniforms[:, None] * sums[:, -1:]
    block = torch.searchsorted(sums, target, right=True).clamp_(max=sums.shape[1] - 1)
    within = _running_sums(filled[torch.arange(len(filled), device=block.device), block[:, 0]])
    total = within[:, -1:]
    rest = (target - sums.gather(1, block) + total).clamp_(min=0)
    place = torch.searchsorted(within, torch.minimum(rest, total * _BELOW_ONE), right=True)
    return (block * _BLOCK + place)[:, 0].clamp_(max=probabilities.shape[1] - 1)


def _running_sums(values: Float[Tensor, "rows any"]) -> Float64[Tensor, "rows any"]:
    """In float64; as a product with a triangle where a GPU must be deterministic, which its cumulative sums are not."""
    if not (values.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return values.cumsum(1, dtype=torch.float64)
    return _triangular_sums(values)


def _triangular_sums(values: Float[Tensor, "rows any"]) -> Float64[Tensor, "rows any"]:
    size = values.shape[1]
    return values.double() @ torch.ones(size, size, dtype=torch.float64, device=values.device).triu()
