"""Searching vectors by comparing everything with everything, a block at a time."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.functional.similarity import cosine
from srch3.types import Hits


def exact_search(
    vectors: Float[Tensor, "docs dim"], queries: Float[Tensor, "queries dim"], k: int, block: int = 1 << 24
) -> Hits:
    """Hits by comparing everything with everything; never more than about ``block`` scores exist at once."""
    parts = [_search_some(vectors, some, k, block) for some in queries.split(max(1, block // len(vectors)))]
    return Hits(torch.cat([part.rows for part in parts]), torch.cat([part.scores for part in parts]))


def _search_some(vectors: Float[Tensor, "docs dim"], queries: Float[Tensor, "queries dim"], k: int, block: int) -> Hits:
    best = Hits(queries.new_empty(len(queries), 0, dtype=torch.int64), queries.new_empty(len(queries), 0))
    start = 0
    for part in vectors.split(max(1, block // max(1, len(queries)))):
        found = top_k(cosine(queries, part), k)
        rows = torch.cat([best.rows, found.rows + start], dim=1)
        best = ranked(rows, torch.cat([best.scores, found.scores], dim=1), k)
        start += len(part)
    return best


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
    tied = ((scores >= values[:, -1:]).sum(dim=1) > k).nonzero()[:, 0]
    if len(tied):
        everything = scores[tied].sort(dim=1, descending=True, stable=True)
        rows[tied] = everything.indices[:, :k]
    return ranked(rows, values, k)
