"""Indexes with a structure that only proposes: what has changed since it was made is searched exactly beside it."""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from srch3.errors import CheckpointError, ConfigError
from srch3.functional.similarity import normalise
from srch3.indexes.base import ARGUMENTS, BaseIndex
from srch3.indexes.guard import PROBES, RecallGuard
from srch3.indexes.saving import damaged
from srch3.indexes.scan import NONE, exact_search, ranked, rescored
from srch3.indexes.store import Dtype
from srch3.types import Hits

_HARDER = 8
_PART = 1 << 16


class ProposingIndex(BaseIndex):
    """A structure over the vectors as they were at the last merge, under an exact overlay of what changed since.

    A changed row is hidden from the structure at once and compared exactly, so that no search sees an old vector. When
    the overlay has grown past ``overlay_share`` of the rows, or on :meth:`merge`, it is worked into the structure: row
    by row while little has changed, by building anew otherwise, or where row by row has cost too much recall. Both
    parts only propose; scores are computed from the present vectors.

    The structure sees unit vectors less their mean at the time it was built, and compares them by Euclidean distance.
    That orders documents as the cosine does, and keeps digits where all embeddings lie close together.

    Args:
        effort: What the structure is asked with at first.
        overlay_share: Share of the rows that the overlay may grow to.
        min_recall: Share of the nearest documents that the probes of the guard must find, see :class:`RecallGuard`.
        dtype: How vectors are stored.
    """

    fold_share: ClassVar[float]
    """Up to which share of the rows a merge works changes in one by one."""

    def __init__(self, effort: int, overlay_share: float, min_recall: float, dtype: Dtype) -> None:
        super().__init__(dtype)
        for name, share in (("overlay_share", overlay_share), ("min_recall", min_recall)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{ARGUMENTS}.{name}: expected a share from 0 to 1; got {share}")
        self.overlay_share, self.min_recall = overlay_share, min_recall
        self._guard = RecallGuard(effort, min_recall)
        self._settled: Bool[Tensor, "docs"] = torch.zeros(0, dtype=torch.bool)
        self._centre: Float[Tensor, "dim"] = torch.zeros(0)
        self._overlay: tuple[Tensor, Tensor] | None = None

    def health(self) -> dict[str, float]:
        """Figures that tell whether searches can be trusted.

        Returns:
            ``ann_recall`` of the last probe, ``ann_effort`` in use (``ef`` of a graph, ``nprobe`` of lists),
            ``exact_fallback``, 1 while the structure is passed over, and ``overlay_share`` of the rows.
        """
        return self._guard.health() | {"overlay_share": self._waiting() / max(1, len(self))}

    def merge(self) -> None:
        """Works the overlay into the structure, and probes it."""
        with self._lock, torch.inference_mode(False), torch.no_grad():
            self._merge()

    def _merge(self) -> None:
        rows = (self._alive & ~self._settled).nonzero()[:, 0]
        if self._size() == 0 or self._outdated() > self.fold_share * self.live:
            self._rebuild()
        elif len(rows):
            self._insert(rows)
            self._settle(self._alive.clone())
            if self._guard.worse:
                self._rebuild()

    def _rebuild(self) -> None:
        rows = self._alive.nonzero()[:, 0]
        self._centre = self._mean(rows)
        self._construct(rows)
        self._settle(self._alive.clone())
        self._guard.usual = self._guard.effort

    def _settle(self, settled: Bool[Tensor, "docs"]) -> None:
        self._settled, self._overlay = settled, None
        self._probe(merged=True)

    def _changed(self, rows: Int64[Tensor, "changed"]) -> None:
        self._settled = torch.cat([self._settled, self._settled.new_zeros(len(self) - len(self._settled))])
        known = rows[self._settled[rows]]
        self._settled[rows] = False
        self._overlay = None
        self._hide(known)
        self._guard.noticed(len(rows))
        if self._outdated() > self.overlay_share * self.live:
            self._merge()

    def _search(self, queries: Float[Tensor, "queries dim"], k: int) -> Hits:
        self._guard.asked(queries, k)
        self.searches += 1
        if self._guard.due(len(self)):
            self._probe(merged=False)
        if self._guard.exact or k == 0 or len(queries) == 0:
            return exact_search(self._store, queries, k, alive=self._alive)
        return self._approximate(queries, k, self._guard.effort)

    def _approximate(self, queries: Float[Tensor, "queries dim"], k: int, effort: int) -> Hits:
        rows, vectors = self._fresh()
        best = exact_search(vectors, queries, k)
        proposed = rescored(self._store, queries, self._proposals(queries, k, effort), k)
        both = torch.cat([rows[best.rows], proposed.rows], dim=1)
        return ranked(both, torch.cat([best.scores, proposed.scores], dim=1), k)

    def _proposals(self, queries: Float[Tensor, "queries dim"], k: int, effort: int) -> Int64[Tensor, "queries any"]:
        """At least ``k`` rows per query, or all that the structure may show; asked harder where there are fewer."""
        wanted = min(k, int(self._settled.sum()))
        asked = self._coordinates(queries)
        found = torch.full((len(queries), 0), NONE, device=queries.device)
        lacking = torch.arange(len(queries), device=queries.device)
        for harder in (effort, _HARDER * effort, self._size()):
            if len(lacking) == 0 or wanted == 0:
                return found
            more = self._propose(asked[lacking.to(asked.device)], wanted, harder).to(queries.device)
            found = _widened(found, more.shape[1])
            found[lacking] = _widened(more, found.shape[1])
            lacking = ((found != NONE).sum(dim=1) < wanted).nonzero()[:, 0]
        if len(lacking):
            hits = exact_search(self._store, queries[lacking], wanted, alive=self._settled)
            found[lacking] = _widened(hits.rows, found.shape[1])
        return found

    def _probe(self, merged: bool) -> None:
        alive = self._alive.nonzero()[:, 0]
        if len(alive) == 0:
            return
        places = torch.linspace(0, len(alive) - 1, min(PROBES, len(alive)), dtype=torch.float64).long()
        self._guard.probe(self._store[alive[places.to(alive.device)]], self._recalls, merged)

    def _recalls(self, probes: Float[Tensor, "probes dim"], k: int, efforts: list[int]) -> Iterator[Tensor]:
        k = min(k, self.live)
        worst = exact_search(self._store, probes, k, alive=self._alive).scores[:, -1:]
        for effort in efforts:
            yield (self._approximate(probes, k, effort).scores >= worst).float().mean(dim=1)

    def _fresh(self) -> tuple[Int64[Tensor, "changed"], Float[Tensor, "changed dim"]]:
        if self._overlay is None:
            rows = (self._alive & ~self._settled).nonzero()[:, 0]
            self._overlay = rows, self._store[rows]
        return self._overlay

    def _waiting(self) -> int:
        return int((self._alive & ~self._settled).sum())

    def _outdated(self) -> int:
        """Rows that wait in the overlay, or those that the structure holds in vain where they are more."""
        return max(self._waiting(), self._size() - int(self._settled.sum()))

    def _mean(self, rows: Int64[Tensor, "some"]) -> Float[Tensor, "dim"]:
        total = torch.zeros(self._store.dim, dtype=torch.float64, device=rows.device)
        for part in rows.split(_PART):
            total += normalise(self._store[part]).sum(dim=0, dtype=torch.float64)
        return (total / max(1, len(rows))).float().cpu()

    def _coordinates(self, vectors: Float[Tensor, "some dim"]) -> Float[Tensor, "some dim"]:
        return normalise(vectors.cpu()) - self._centre

    def _parts(self, rows: Int64[Tensor, "some"]) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows and what the structure sees of them, some at a time, on the CPU."""
        for part in rows.split(_PART) if len(rows) else ():
            yield part.cpu(), self._coordinates(self._store[part])

    def to(self, device: torch.device | str) -> None:
        """Moves the vectors; the structure stays on the CPU."""
        with self._lock:
            super().to(device)
            self._settled, self._overlay = self._settled.to(self._alive.device), None

    def _tensors(self) -> dict[str, Tensor]:
        return {"settled": self._settled, "centre": self._centre} | self._guard.tensors()

    def _facts(self) -> dict[str, Any]:
        return self._guard.facts()

    def _write_structure(self, folder: Path) -> None:
        if self._size():
            self._save(folder / self.kind)

    def _restore(self, folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self._settled, self._centre, self._overlay = tensors["settled"].clone(), tensors["centre"].clone(), None
        self._guard.restore(tensors, facts)
        path = folder / self.kind
        if path.exists():
            self._load(path)
        if self._size() < int(self._settled.sum()):
            raise self._lost(path)

    def _lost(self, path: Path) -> CheckpointError:
        return damaged(path, f"a structure of {int(self._settled.sum())} documents or more", f"{self._size()}")

    @abstractmethod
    def _construct(self, rows: Int64[Tensor, "alive"]) -> None:
        """Makes the structure anew over these rows, see :meth:`_parts`; there may be none."""

    @abstractmethod
    def _insert(self, rows: Int64[Tensor, "changed"]) -> None:
        """Puts rows in, in place of what the structure may hold for them, and shows them again."""

    @abstractmethod
    def _hide(self, rows: Int64[Tensor, "changed"]) -> None:
        """Keeps rows that the structure shows from being proposed."""

    @abstractmethod
    def _propose(self, queries: Float[Tensor, "queries dim"], k: int, effort: int) -> Int64[Tensor, "queries any"]:
        """Candidates for the nearest ``k`` that are not hidden, ``NONE`` where there are fewer; queries as coordinates.

        ``k`` is at least one and at most the number of rows that are shown.
        """

    @abstractmethod
    def _size(self) -> int:
        """Number of rows that the structure holds, hidden ones among them."""

    @abstractmethod
    def _save(self, path: Path) -> None:
        """Writes the structure to a file."""

    @abstractmethod
    def _load(self, path: Path) -> None:
        """Reads what :meth:`_save` wrote, and hides what was hidden."""


def _widened(rows: Int64[Tensor, "queries any"], width: int) -> Int64[Tensor, "queries more"]:
    missing = rows.new_full((len(rows), max(0, width - rows.shape[1])), NONE)
    return torch.cat([rows, missing], dim=1)
