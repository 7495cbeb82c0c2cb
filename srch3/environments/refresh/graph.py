"""The graph of nearest neighbours, as far as refresh policies walk it."""

import torch
from jaxtyping import Int64
from torch import Tensor

from srch3.types import Searcher


def nearest(searcher: Searcher, rows: Int64[Tensor, "some"], count: int) -> Int64[Tensor, "some near"]:
    """The documents nearest to each of some documents, best first, without the document itself.

    Args:
        searcher: The vectors as they are.
        rows: Documents that are still there.
        count: Neighbours of each; all other documents where there are fewer.
    """
    if len(rows) == 0 or count == 0:
        return torch.empty(len(rows), 0, dtype=torch.int64)
    found = searcher.search(searcher.vectors_of(rows), count + 1).rows.cpu()
    itself = found == rows[:, None]
    itself[:, -1] |= ~itself.any(dim=1)
    return found[~itself].view(len(rows), found.shape[1] - 1)


def neighbourhoods(
    searcher: Searcher, rows: Int64[Tensor, "some"], count: int, hops: int
) -> list[Int64[Tensor, "unit"]]:
    """Each of some documents with all that lies within ``hops`` links to the ``count`` nearest, rows ascending.

    Args:
        searcher: The vectors as they are.
        rows: Documents that are still there.
        count: Links of each document.
        hops: Links away at most.
    """
    units = list(rows.split(1)) if len(rows) else []
    for _ in range(hops if units else 0):
        reached = torch.cat(units).unique()
        near = nearest(searcher, reached, count)
        units = [torch.cat([unit, near[torch.searchsorted(reached, unit)].flatten()]).unique() for unit in units]
    return units
