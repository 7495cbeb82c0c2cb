"""Searching vectors by comparing everything with everything, a block at a time, and scoring what was found."""

from typing import Protocol, overload

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from srch3.functional.similarity import cosine, truncated
from srch3.types import Hits

BLOCK = 1 << 24
"""Numbers held in memory at once, 4 bytes each."""

NONE = -1
"""Stands for a row where there is none."""


class Rows(Protocol):
    """Vectors that can be read as float32, some at a time; a tensor is one."""

    @property
    def shape(self) -> torch.Size:
        """Number of vectors, and their width."""

    def __len__(self) -> int:
        """Number of vectors."""

    @overload
    def __getitem__(self, rows: slice) -> Tensor: ...
    @overload
    def __getitem__(self, rows: Tensor) -> Tensor: ...


def exact_search(
    vectors: Rows,
    queries: Float[Tensor, "queries dim"],
    k: int,
    block: int = BLOCK,
    alive: Bool[Tensor, "docs"] | None = None,
    width: int | None = None,
) -> Hits:
    """Hits by comparing everything with everything.

    Args:
        vectors: Of all documents, on the device of the queries.
        queries: At unit length.
        k: Results per query; fewer where fewer documents are left.
        block: Never more than about so many scores, or components of vectors, exist at once.
        alive: Documents that may be found; by default all.
        width: Compare the first so many components alone, at unit length again.
    """
    width = width or queries.shape[1]
    queries = truncated(queries, width)
    some = min(max(1, len(queries)), max(1, int(block**0.5)))
    parts = [_search_some(vectors, part, k, block, alive, width) for part in queries.split(some)]
    return Hits(torch.cat([part.rows for part in parts]), torch.cat([part.scores for part in parts]))


def _search_some(
    vectors: Rows, queries: Float[Tensor, "queries dim"], k: int, block: int, alive: Tensor | None, width: int
) -> Hits:
    best = Hits(queries.new_empty(len(queries), 0, dtype=torch.int64), queries.new_empty(len(queries), 0))
    size = max(1, block // max(1, len(queries), vectors.shape[1]))
    for start in range(0, len(vectors), size):
        part = vectors[start : start + size]
        left = None if alive is None else alive[start : start + size].nonzero()[:, 0]
        if left is not None and len(left) < len(part):
            part = part[left]
        else:
            left = torch.arange(len(part), device=queries.device)
        found = top_k(cosine(queries, truncated(part, width)), k)
        rows = torch.cat([best.rows, left[found.rows] + start], dim=1)
        best = ranked(rows, torch.cat([best.scores, found.scores], dim=1), k)
    return rescored(vectors, queries, best.rows, k)


def rescored(vectors: Rows, queries: Float[Tensor, "queries dim"], rows: Int64[Tensor, "queries any"], k: int) -> Hits:
    """The best ``k`` of some rows per query, with scores whose every bit depends on the two vectors alone.

    A product of matrices rounds differently with its shape. Here each score is a sum of its own, so that it is the same
    whichever index found the document, in whatever company, and equal vectors have equal scores.

    Args:
        vectors: Of all documents, on the device of the queries.
        queries: At unit length; as wide as what the vectors are to be compared by.
        rows: Candidates, each at most once per query; ``NONE`` is passed over, and comes last with a score of −∞.
        k: Results per query.
    """
    count, width = rows.shape[1], queries.shape[1]
    some = max(1, BLOCK // max(1, count * vectors.shape[1]))
    scores = [queries.new_empty(0, count)]
    for asked, found in zip(queries.split(some), rows.split(some), strict=True):
        near = truncated(vectors[found.clamp(min=0).flatten()], width).view(*found.shape, width)
        scores.append((asked[:, None] * near).sum(dim=2).masked_fill(found == NONE, -torch.inf))
    return ranked(rows, torch.cat(scores), k)


def ranked(rows: Int64[Tensor, "queries any"], scores: Float[Tensor, "queries any"], k: int) -> Hits:
    """The best ``k``, by descending score and then by ascending row."""
    rows, order = rows.sort(dim=1)
    scores, ranks = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return Hits(rows.gather(1, ranks)[:, :k], scores[:, :k])


def top_k(scores: Float[Tensor, "queries docs"], k: int) -> Hits:
    """The best ``k`` columns of each row, by descending score and then by ascending column.

    Which of several equal scores ``torch.topk`` keeps at its border is not defined; where that matters, all are sorted.
    """
    k = min(k, scores.shape[1])
    values, rows = scores.topk(k, dim=1)
    tied = ((scores >= values[:, -1:]).sum(dim=1) > k).nonzero()[:, 0] if k else rows.new_empty(0)
    if len(tied):
        everything = scores[tied].sort(dim=1, descending=True, stable=True)
        rows[tied] = everything.indices[:, :k]
    return ranked(rows, values, k)
