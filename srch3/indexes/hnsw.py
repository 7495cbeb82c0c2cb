"""Approximate search in a navigable small-world graph (Malkov & Yashunin, arXiv 1603.09320), through hnswlib."""

from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.errors import ConfigError
from srch3.indexes.base import ARGUMENTS
from srch3.indexes.proposing import ProposingIndex
from srch3.indexes.saving import damaged
from srch3.indexes.scan import NONE
from srch3.indexes.store import Dtype


class HnswIndex(ProposingIndex):
    """A graph proposes documents, and what changed since it was built is compared exactly.

    Below about 100,000 documents exact search is faster on a CPU, once updates are counted.

    Args:
        m: Neighbours per document and layer.
        ef_construction: Candidates kept while inserting.
        ef: Candidates kept while searching, at least the number of hits. It is doubled, up to 8 times what is given
            here, until the probes reach ``min_recall``.
        overlay_share: Share of the documents that may wait, compared exactly, before they are worked into the graph.
        min_recall: Share of the nearest documents that the probes must find; search is exact where the graph does not.
        threads: Of building and searching. More than one makes the graph depend on chance.
        seed: Of the graph's layers.
        dtype: How vectors are stored; the graph has float32 copies of its own in any case.
    """

    kind = "hnsw"
    settings = ("m", "ef_construction", "ef", "overlay_share", "min_recall", "seed")
    fold_share = 0.1

    def __init__(
        self,
        m: int = 16,
        ef_construction: int = 200,
        ef: int = 128,
        overlay_share: float = 0.2,
        min_recall: float = 0.985,
        threads: int = 1,
        seed: int = 0,
        dtype: Dtype = "float32",
    ) -> None:
        for name, value, least in (("m", m, 2), ("ef_construction", ef_construction, 1), ("ef", ef, 1)):
            if value < least:
                raise ConfigError(f"{ARGUMENTS}.{name}: expected at least {least}; got {value}")
        if threads < 1:
            raise ConfigError(f"{ARGUMENTS}.threads: expected at least 1; got {threads}")
        super().__init__(ef, overlay_share, min_recall, dtype)
        self.m, self.ef_construction, self.ef = m, ef_construction, ef
        self.threads, self.seed = threads, seed
        self._graph: Any = None

    def _construct(self, rows: Int64[Tensor, "alive"]) -> None:
        self._graph = hnswlib.Index("l2", self._store.dim)
        self._graph.init_index(max(1, len(rows)), M=self.m, ef_construction=self.ef_construction, random_seed=self.seed)
        self._add(rows)

    def _insert(self, rows: Int64[Tensor, "changed"]) -> None:
        room = self._graph.get_current_count() + len(rows)
        if room > self._graph.get_max_elements():
            self._graph.resize_index(room)
        self._add(rows)

    def _add(self, rows: Int64[Tensor, "some"]) -> None:
        for part, vectors in self._parts(rows):
            self._graph.add_items(vectors.numpy(), part.numpy().astype(np.uint64), num_threads=self.threads)

    def _hide(self, rows: Int64[Tensor, "changed"]) -> None:
        for row in rows.tolist():
            self._graph.mark_deleted(row)

    def _propose(self, queries: Float[Tensor, "queries dim"], k: int, effort: int) -> Int64[Tensor, "queries k"]:
        self._graph.set_ef(max(effort, k))
        try:
            labels, _ = self._graph.knn_query(queries.numpy(), k, num_threads=self.threads)
        except RuntimeError:
            return torch.full((len(queries), k), NONE)
        return torch.from_numpy(labels.astype(np.int64))

    def _size(self) -> int:
        return 0 if self._graph is None else int(self._graph.get_current_count())

    def _save(self, path: Path) -> None:
        self._graph.save_index(str(path))

    def _load(self, path: Path) -> None:
        graph = hnswlib.Index("l2", self._store.dim)
        try:
            graph.load_index(str(path))
        except RuntimeError as error:
            raise damaged(path, "a graph", f"{error}") from error
        self._graph = graph
