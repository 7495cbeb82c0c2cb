"""Searching vectors that lie a linear map away from the coordinates of the model."""

import torch
from jaxtyping import Float, Float64, Int64
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from srch3.environments.shards import ShardedIndex
from srch3.functional.similarity import cosine, in_float64
from srch3.indexes.base import BaseIndex
from srch3.indexes.exact import ExactIndex
from srch3.indexes.scan import exact_search, ranked, rescored
from srch3.types import Hits

SLACK, MOST_SLACK = 1.5, 12.0
"""Documents that a structure proposes at first and at most, as a multiple of the hits wanted."""

MIN_RECALL = 0.985
"""Share of the nearest documents that a probe must find among the hits."""

MAX_CONDITION = {"float32": 1e3, "float16": 1e2, "int8": 1e1}
"""Bound of the map's condition number, by how vectors are stored, which multiplies what storing them rounds off."""

_MOVES, _QUERIES, _SAMPLE, _BLOCK = 8, 32, 1 << 14, 1 << 16
_ITERATIONS = 16


class FramedIndex:
    """An index whose vectors are moved all at once.

    A document at ``u`` in the index is in the direction of ``u @ matrix`` for the model. An exact index of float32
    vectors has them mapped one by one, ``2 dim²`` operations each. In others they stay where they are, and the matrix
    alone is changed. An exact index is then scanned through the matrix. A structure, which would have to be made anew,
    proposes documents by ``q @ matrixᵀ``, and these are scored where the model has them, so that the cost depends on
    the searches and not on the corpus.

    Proposals do not know how the matrix changes the lengths of vectors. Every eighth move, some searches are therefore
    compared with a sample of the documents; where they miss too many, more are proposed, and where that does not help
    the vectors are mapped after all. Processes that share an index do not compare, and propose the most at once.

    Args:
        index: What holds the vectors.

    Attributes:
        matrix: The map; None for no change.
        slack: Documents that are proposed, as a multiple of the hits wanted.
        moves: How often documents were moved since the last comparison.
    """

    def __init__(self, index: BaseIndex) -> None:
        self.index = index
        self.slack, self.moves = SLACK, 0
        self.matrix: Float64[Tensor, "dim dim"] | None = None
        self._inverse: Float64[Tensor, "dim dim"] | None = None
        self._recall: float | None = None

    def search(self, queries: Float[Tensor, "queries dim"], k: int, width: int | None = None) -> Hits:
        """The best ``k`` documents of each query, by the first ``width`` components; fewer in a smaller corpus."""
        if self.matrix is None:
            return self.index.search(queries, k, width)
        asked = queries.detach().float()
        narrow = width is not None and width < queries.shape[1]
        if narrow or isinstance(self.index, ExactIndex):
            return self._scan(asked, k, width if narrow else None)
        if isinstance(self.index, ShardedIndex):
            return self._proposed(asked, k, MOST_SLACK)
        if self.moves >= _MOVES and len(asked):
            self.moves = 0
            self._probe(asked[:: -(-len(asked) // _QUERIES)], k)
            return self.search(queries, k)
        return self._proposed(asked, k, self.slack)

    def health(self) -> dict[str, float]:
        """What the index says, and the recall of the last comparison where it is lower."""
        figures = self.index.health()
        if self._recall is not None and self.matrix is not None:
            figures["ann_recall"] = min(self._recall, figures.get("ann_recall", 1.0))
        return figures

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
        self._reset()
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
        moved = in_float64(matrix)
        if self.index.maps_in_place:
            self.index.map(moved)
            return
        moved = moved if self.matrix is None else self.matrix.to(moved.device) @ moved
        moved = moved * (len(moved) ** 0.5 / torch.linalg.matrix_norm(moved))
        self.restore(moved, self.slack, self.moves + 1)
        assert self._inverse is not None
        if _largest_stretch(moved) * _largest_stretch(self._inverse) > MAX_CONDITION[self.index.dtype]:
            self.settle()

    def settle(self) -> None:
        """Maps the vectors one by one, and goes back to the coordinates of the model."""
        if self.matrix is not None:
            self.index.map(self.matrix)
            self._reset()

    def restore(self, matrix: Float64[Tensor, "dim dim"], slack: float, moves: int) -> None:
        """Takes the attributes of an index that was saved."""
        self.matrix, self._inverse = matrix, torch.linalg.inv(matrix)
        self.slack, self.moves = slack, moves

    def _reset(self) -> None:
        self.matrix = self._inverse = self._recall = None
        self.slack, self.moves = SLACK, 0

    def _proposed(self, queries: Float[Tensor, "queries dim"], k: int, slack: float) -> Hits:
        assert self.matrix is not None
        proposals = self.index.search(_directions(queries, self.matrix.T), int(slack * k) + 1).rows
        rows, places = proposals.unique(return_inverse=True)
        hits = rescored(self.vectors_of(rows), queries, places, k)
        return Hits(rows[hits.rows], hits.scores)

    def _scan(self, queries: Float[Tensor, "queries dim"], k: int, width: int | None) -> Hits:
        rows = self.index.alive.nonzero()[:, 0].to(queries.device)
        best = Hits(rows.new_empty(len(queries), 0), queries.new_empty(len(queries), 0))
        for some in rows.split(_BLOCK):
            hits = exact_search(self.vectors_of(some), queries, min(k, len(some)), width=width)
            found, scores = torch.cat([best.rows, some[hits.rows]], dim=1), torch.cat([best.scores, hits.scores], dim=1)
            best = ranked(found, scores, min(k, found.shape[1]))
        return best

    def _probe(self, queries: Float[Tensor, "queries dim"], k: int) -> None:
        """Proposes more until enough is found of what is near in a sample, or maps the vectors."""
        rows = self.index.alive.nonzero()[:, 0].to(queries.device)
        rows = rows[:: -(-len(rows) // _SAMPLE)]
        scores = cosine(queries, self.vectors_of(rows))
        while True:
            hits = self._proposed(queries, k, self.slack)
            near = scores > hits.scores[:, -1:] + 1e-6
            found = torch.stack([torch.isin(rows, some) for some in hits.rows])
            self._recall = float((near & found).sum() / near.sum().clamp(min=1)) if near.any() else 1.0
            if self._recall >= MIN_RECALL:
                return
            if 2 * self.slack > MOST_SLACK:
                rank_zero_info(
                    f"environment: the index found {self._recall:.1%} of the nearest documents through the map of the "
                    "correction, so all vectors are mapped and the structure is made anew"
                )
                self.settle()
                return
            self.slack *= 2

    def _inwards(self, vectors: Float[Tensor, "any dim"]) -> Float[Tensor, "any dim"]:
        return vectors if self._inverse is None else _directions(vectors, self._inverse)


def _largest_stretch(matrix: Float64[Tensor, "dim dim"]) -> float:
    """The largest singular value, by power iteration: nearly all of it, at far less than a decomposition costs."""
    vector = torch.linspace(1, 2, len(matrix), dtype=matrix.dtype, device=matrix.device)
    for _ in range(_ITERATIONS):
        vector = matrix.T @ (matrix @ torch.nn.functional.normalize(vector, dim=0))
    return float(torch.linalg.vector_norm(vector) ** 0.5)


def _directions(vectors: Float[Tensor, "any dim"], matrix: Float[Tensor, "dim dim"]) -> Float[Tensor, "any dim"]:
    """Where a matrix takes unit vectors, at unit length."""
    with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
        mapped = vectors.detach().float() @ matrix.to(vectors.device, torch.float32)
        return torch.nn.functional.normalize(mapped, dim=1)
