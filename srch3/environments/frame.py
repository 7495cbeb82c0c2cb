"""Searching vectors that lie a linear map away from the coordinates of the model."""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from srch3.indexes.base import BaseIndex
from srch3.indexes.exact import ExactIndex
from srch3.indexes.scan import exact_search, rescored
from srch3.types import Hits

SLACK = 1.5
"""Documents that an approximate index proposes, as a multiple of the hits wanted, when vectors are mapped."""

MAX_CONDITION = 1e3
"""Condition number of the map beyond which vectors are mapped one by one after all."""


class FramedIndex:
    """An index whose vectors are moved all at once.

    A document at ``u`` in the index is in the direction of ``u @ matrix`` for the model. An exact index of float32
    vectors has them mapped one by one, ``2 dim²`` operations each. In any other, whose structure would have to be made
    anew, they stay where they are: the matrix alone is changed, a query ``q`` proposes documents by ``q @ matrixᵀ``,
    and these are scored where the model has them. The cost then depends on the searches and not on the corpus.

    Args:
        index: What holds the vectors.
    """

    def __init__(self, index: BaseIndex) -> None:
        self.index = index
        self.matrix: Float64[Tensor, "dim dim"] | None = None
        self._inverse: Float64[Tensor, "dim dim"] | None = None

    def search(self, queries: Float[Tensor, "queries dim"], k: int, width: int | None = None) -> Hits:
        """The best ``k`` documents of each query, by the first ``width`` components; fewer in a smaller corpus."""
        if self.matrix is None:
            return self.index.search(queries, k, width)
        asked = queries.detach().float()
        if width is not None and width < queries.shape[1]:
            rows = self.index.alive.nonzero()[:, 0].to(queries.device)
            hits = exact_search(self.vectors_of(rows), asked, k, width=width)
        else:
            rows, places = self.index.search(_directions(asked, self.matrix.T), int(SLACK * k) + 1).rows.unique(
                return_inverse=True
            )
            hits = rescored(self.vectors_of(rows), asked, places, k)
        return Hits(rows[hits.rows], hits.scores)

    def vectors_of(self, rows: Int64[Tensor, "some"]) -> Float[Tensor, "some dim"]:
        """Vectors of some documents as the model has them, on the device of ``rows``."""
        vectors = self.index.vectors_of(rows)
        return vectors if self.matrix is None else _directions(vectors, self.matrix)

    def build(self, vectors: Float[Tensor, "docs dim"], removed: Int64[Tensor, "removed"] | None = None) -> None:
        """Replaces the vectors of all documents, and goes back to the coordinates of the model.

        Args:
            vectors: One for each row.
            removed: Rows that hold no document.
        """
        self._set(None)
        self.index.build(vectors)
        if removed is not None and len(removed):
            self.index.remove(removed)

    def update(self, rows: Int64[Tensor, "changed"], vectors: Float[Tensor, "changed dim"]) -> None:
        """Overwrites the vectors of some documents."""
        self.index.update(rows, self._inwards(vectors))

    def append(self, vectors: Float[Tensor, "added dim"]) -> Int64[Tensor, "added"]:
        """Adds documents at the end, and gives their rows."""
        return self.index.append(self._inwards(vectors))

    def move(self, matrix: Float[Tensor, "dim dim"]) -> None:
        """Moves every document from ``v`` to the direction of ``v @ matrix``.

        Args:
            matrix: Takes no document to zero, and can be inverted.
        """
        moved = matrix.detach().double().cpu()
        moved = moved if self.matrix is None else self.matrix @ moved
        self._set(moved * (len(moved) ** 0.5 / torch.linalg.matrix_norm(moved)))
        in_place = type(self.index) is ExactIndex and self.index.dtype == "float32"
        if in_place or torch.linalg.cond(moved) > MAX_CONDITION:
            self.settle()

    def settle(self) -> None:
        """Maps the vectors one by one, and goes back to the coordinates of the model."""
        if self.matrix is not None:
            alive = self.index.alive
            self.build(self.vectors_of(torch.arange(len(alive), device=alive.device)), (~alive).nonzero()[:, 0])

    def restore(self, matrix: Float64[Tensor, "dim dim"] | None) -> None:
        """Takes the matrix of an index that was saved."""
        self._set(matrix)

    def _set(self, matrix: Float64[Tensor, "dim dim"] | None) -> None:
        self.matrix = matrix
        self._inverse = None if matrix is None else torch.linalg.inv(matrix)

    def _inwards(self, vectors: Float[Tensor, "any dim"]) -> Float[Tensor, "any dim"]:
        return vectors if self._inverse is None else _directions(vectors, self._inverse)


def _directions(vectors: Float[Tensor, "any dim"], matrix: Float[Tensor, "dim dim"]) -> Float[Tensor, "any dim"]:
    """Where a matrix takes unit vectors, at unit length."""
    with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
        mapped = vectors.detach().float() @ matrix.to(vectors.device, torch.float32)
        return torch.nn.functional.normalize(mapped, dim=1)
