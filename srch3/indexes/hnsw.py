"""Approximate search in a navigable small-world graph (Malkov & Yashunin, arXiv 1603.09320), through hnswlib."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from srch3.errors import CheckpointError, ConfigError
from srch3.indexes.base import ARGUMENTS, BaseIndex
from srch3.indexes.scan import exact_search, ranked, top_k
from srch3.types import Hits

PROBES = 32
"""Stored vectors that are searched for, to see whether the graph can be trusted."""


class HnswIndex(BaseIndex):
    """A graph proposes documents, and their scores are then computed exactly.

    Overwriting rewires the graph around each changed document. That costs several insertions and lets the recall decay,
    so when a larger share has changed, the graph is built anew. After every change the graph is probed: where it misses
    too many of the nearest documents, as it does when all embeddings have collapsed onto nearly the same point, search
    is exact until a later change repairs it.

    Below about 100,000 documents exact search is faster on a CPU, once updates are counted.

    Args:
        m: Neighbours per document and layer.
        ef_construction: Candidates kept while inserting.
        ef: Candidates kept while searching, at least the number of hits; more find more, slower.
        rebuild_share: Share of the documents that may change before the graph is built anew.
        min_recall: Share of the nearest documents that the probes must find.
        threads: Of building and searching. More than one makes the graph depend on chance.
        seed: Of the graph's layers.
    """

    kind = "hnsw"

    def __init__(
        self,
        m: int = 16,
        ef_construction: int = 200,
        ef: int = 128,
        rebuild_share: float = 0.15,
        min_recall: float = 0.9,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (("m", m, 2), ("ef_construction", ef_construction, 1), ("ef", ef, 1)):
            if value < least:
                raise ConfigError(f"{ARGUMENTS}.{name}: expected at least {least}; got {value}")
        if threads < 1:
            raise ConfigError(f"{ARGUMENTS}.threads: expected at least 1; got {threads}")
        for name, share in (("rebuild_share", rebuild_share), ("min_recall", min_recall)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{ARGUMENTS}.{name}: expected a share from 0 to 1; got {share}")
        self.m, self.ef_construction, self.ef = m, ef_construction, ef
        self.rebuild_share, self.min_recall = rebuild_share, min_recall
        self.threads, self.seed = threads, seed
        self._graph: Any = None
        self._changed: Bool[Tensor, "docs"] = torch.zeros(0, dtype=torch.bool)
        self._trusted = True

    @property
    def trusted(self) -> bool:
        """Whether searches go through the graph; they are exact otherwise."""
        return self._trusted

    @property
    def changed_share(self) -> float:
        """Share of the documents that changed since the graph was built."""
        return int(self._changed.sum()) / max(1, len(self))

    def _rebuild(self) -> None:
        graph = hnswlib.Index("ip", self.vectors.shape[1])
        graph.init_index(len(self), M=self.m, ef_construction=self.ef_construction, random_seed=self.seed)
        self._insert(graph, torch.arange(len(self)))
        self._graph = graph
        self._changed = torch.zeros(len(self), dtype=torch.bool)
        self._probe()

    def _overwritten(self, rows: Int64[Tensor, "changed"]) -> None:
        self._changed[rows.cpu()] = True
        if self.changed_share > self.rebuild_share:
            self._rebuild()
        else:
            self._insert(self._graph, rows.cpu())
            self._probe()

    def _insert(self, graph: Any, rows: Int64[Tensor, "changed"]) -> None:
        vectors = self.vectors[rows.to(self.vectors.device)].cpu().numpy()
        graph.add_items(vectors, rows.numpy().astype(np.uint64), num_threads=self.threads)

    def _probe(self) -> None:
        rows = torch.linspace(0, len(self) - 1, min(PROBES, len(self)), dtype=torch.float64).long()
        probes = self.vectors[rows.to(self.vectors.device)]
        k = min(self.ef, len(self))
        proposed = self._propose(probes, k)
        recall = 0.0
        if proposed is not None:
            scores = probes @ self.vectors.T
            worst = top_k(scores, k).scores[:, -1:]
            recall = float((scores.gather(1, proposed) >= worst).float().mean())
        if self._trusted and recall < self.min_recall:
            warnings.warn(
                f"HnswIndex: the graph finds only {recall:.0%} of the nearest documents, so search is exact for now. "
                "Embeddings that have nearly collapsed onto one point do this; look at the loss and its temperature",
                stacklevel=2,
            )
        self._trusted = recall >= self.min_recall

    def _propose(self, queries: Float[Tensor, "queries dim"], k: int) -> Int64[Tensor, "queries k"] | None:
        array = queries.cpu().numpy()
        for ef in sorted({max(self.ef, k), min(len(self), 8 * max(self.ef, k)), len(self)}):
            self._graph.set_ef(max(ef, k))
            try:
                labels, _ = self._graph.knn_query(array, k, num_threads=self.threads)
            except RuntimeError:
                continue
            return torch.from_numpy(labels.astype(np.int64)).to(queries.device)
        return None

    def _search(self, queries: Float[Tensor, "queries dim"], k: int) -> Hits:
        rows = self._propose(queries, k) if self._trusted and len(queries) else None
        if rows is None:
            return exact_search(self.vectors, queries, k)
        parts = zip(queries.split(PROBES), rows.split(PROBES), strict=True)
        scores = [torch.einsum("qd,qkd->qk", part, self.vectors[found]) for part, found in parts]
        return ranked(rows, torch.cat(scores), k)

    def _manifest(self) -> dict[str, Any]:
        settings = ("m", "ef_construction", "ef", "rebuild_share", "min_recall", "seed")
        return super()._manifest() | {name: getattr(self, name) for name in settings}

    def state_dict(self) -> dict[str, Any]:
        """Vectors, manifest, and the graph itself, since one built anew would give slightly different hits."""
        state = super().state_dict()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "graph")
            self._graph.save_index(str(path))
            graph = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
        return state | {"graph": graph, "changed": self._changed.clone(), "trusted": self._trusted}

    def _restore(self, state: dict[str, Any]) -> None:
        graph = hnswlib.Index("ip", self.vectors.shape[1])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "graph")
            state["graph"].cpu().numpy().tofile(path)
            graph.load_index(str(path), max_elements=len(self))
        if graph.get_current_count() != len(self):
            raise CheckpointError(
                f"index: expected a graph of {len(self)} documents; got {graph.get_current_count()}; the checkpoint is "
                "damaged, resume from another one"
            )
        self._graph = graph
        self._changed = state["changed"].cpu().clone()
        self._trusted = bool(state["trusted"])
