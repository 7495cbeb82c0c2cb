"""Simulated documents whose vectors drift, each of which is computed when it is asked for."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from experiments.benchmarks.index.measure import draw
from experiments.benchmarks.index.settings import Size

FEATURES = 256
FREQUENCY = 8.0
MOMENTUM = 0.9


class Drifting:
    """Clustered unit vectors that move with every step.

    A step takes ``v`` to the direction of ``v (1 + G) + noise``: ``G`` is common to all documents, small, and goes on
    as Adam's mean of gradients does (``G ← 0.9 G + √(1 − 0.81) new``); the noise of different documents is
    independent, or nearly so where they are very similar, and so is that of different steps. It is
    ``√(2 / h) cos(u Ω + b) W`` for a document that began at ``u``, with random Fourier features ``Ω, b``, and ``W``
    drawn anew each step. So all steps together are two matrices, and any document can be computed at any time.

    Args:
        documents: How many.
        width: Of a vector.
        common: Cosine distance that the common movement takes a document in a step.
        own: Cosine distance that the noise does.
        seed: Of everything.
    """

    def __init__(self, documents: int, width: int, common: float, own: float, seed: int) -> None:
        self._start = draw(documents, Size(documents, width), seed)
        self._generator = torch.Generator().manual_seed(seed + 1)
        self._common, self._own = math.sqrt(2 * common), math.sqrt(2 * own)
        self._frequencies = FREQUENCY * self._random(width, FEATURES)
        self._phases = 2 * math.pi * torch.rand(FEATURES, generator=self._generator)
        self._map, self._weights = torch.eye(width), torch.zeros(FEATURES, width)
        self._moving = self._random(width, width)

    def __len__(self) -> int:
        return len(self._start)

    @property
    def bytes(self) -> int:
        """Memory that the vectors at the beginning take."""
        return self._start.nbytes

    def step(self) -> None:
        """Moves everything."""
        width = len(self._map)
        self._moving = MOMENTUM * self._moving + math.sqrt(1 - MOMENTUM**2) * self._random(width, width)
        step = torch.eye(width) + self._common * self._moving / math.sqrt(width)
        self._map = self._map @ step
        self._weights = self._weights @ step + self._own * self._random(FEATURES, width) / math.sqrt(width)
        scale = math.sqrt(width) / float(torch.linalg.matrix_norm(self._map))
        self._map, self._weights = self._map * scale, self._weights * scale

    def vectors(self, rows: Int64[Tensor, "some"]) -> Float[Tensor, "some dim"]:
        """Where some documents are now."""
        start = self._start[rows]
        features = math.sqrt(2 / FEATURES) * torch.cos(start @ self._frequencies + self._phases)
        return normalize(start @ self._map + features @ self._weights, dim=1)

    def searches(self, rows: Int64[Tensor, "some"], spread: float) -> Float[Tensor, "some dim"]:
        """Searches that end near some documents."""
        near = self.vectors(rows)
        noise = spread * self._random(*near.shape) / math.sqrt(near.shape[1])
        return normalize(near + noise, dim=1)

    def _random(self, rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=self._generator)
