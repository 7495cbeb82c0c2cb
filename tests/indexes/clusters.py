"""Vectors that lie together as embeddings do; isotropic ones have no neighbours worth finding."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def clustered(count: int, dim: int = 32, clusters: int = 20, seed: int = 0) -> Tensor:
    """Draws around the same centres, whatever the seed."""
    centres = normalize(torch.randn(clusters, dim, generator=torch.Generator().manual_seed(12345)), dim=1)
    generator = torch.Generator().manual_seed(seed)
    members = torch.randint(clusters, (count,), generator=generator)
    return normalize(centres[members] + 0.6 * torch.randn(count, dim, generator=generator) / dim**0.5, dim=1)


def brute_force(vectors: Tensor, queries: Tensor, k: int) -> list[list[int]]:
    scores = (queries.double() @ vectors.double().T).tolist()
    return [sorted(range(len(row)), key=lambda i: (-row[i], i))[:k] for row in scores]


def recall(found: Tensor, expected: list[list[int]]) -> float:
    pairs = zip(found.tolist(), expected, strict=True)
    return sum(len(set(row) & set(best)) / len(best) for row, best in pairs) / len(expected)
