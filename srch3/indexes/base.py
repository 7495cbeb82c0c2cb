"""What every index promises: row ``i`` is document ``i``, vectors have unit length, and scores are exact cosines."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from srch3.errors import ConfigError
from srch3.indexes import saving
from srch3.indexes.checks import check_shape, checked, checked_rows
from srch3.indexes.locking import Lock
from srch3.indexes.scan import exact_search
from srch3.indexes.store import DTYPES, Dtype, VectorStore
from srch3.types import Hits

ARGUMENTS = "environment.init_args.index.init_args"
"""Where the arguments of an index stand in YAML."""

_BLOCK = 1 << 16


class BaseIndex(ABC):
    """Holds the vectors of all documents and finds the nearest ones by cosine.

    Vectors stay on the device that they were built on. Whatever structure a subclass adds only proposes documents:
    scores are always computed in float32 from the vectors as they are stored, so that two indexes of the same ``dtype``
    never disagree on a score. Rows are never renumbered. Several threads may call: each call waits for the one before.

    Args:
        dtype: How vectors are stored. Queries and scores are float32 in any case.

    Attributes:
        searches: How many were made that changed what has to be saved.
    """

    kind: ClassVar[str]
    """Name in saved indexes."""

    settings: ClassVar[tuple[str, ...]] = ()
    """Attributes that a saved index must share with the one that reads it."""

    def __init__(self, dtype: Dtype = "float32") -> None:
        if dtype not in DTYPES:
            raise ConfigError(f"{ARGUMENTS}.dtype: expected one of {', '.join(DTYPES)}; got {dtype!r}")
        self.dtype: Dtype = dtype
        self._lock = Lock()
        self.searches = 0
        self._stored: VectorStore | None = None
        self._alive: Bool[Tensor, "docs"] = torch.zeros(0, dtype=torch.bool)

    @property
    def _store(self) -> VectorStore:
        if self._stored is None:
            raise RuntimeError(f"{type(self).__name__}: expected build() or read() first; got an empty index")
        return self._stored

    @property
    def vectors(self) -> Float[Tensor, "docs dim"]:
        """All vectors in float32, for reading only: the stored ones themselves if they are float32, else a copy.

        Those of removed documents have no meaning.

        Raises:
            RuntimeError: Nothing was built yet.
        """
        return self._store[:]

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return self._store.device

    @property
    def maps_in_place(self) -> bool:
        """Whether mapping all vectors costs little beside a search, and loses nothing."""
        return False

    @property
    def alive(self) -> Bool[Tensor, "docs"]:
        """Which rows hold a document, a copy; the others were removed."""
        return self._alive.clone()

    @property
    def live(self) -> int:
        """How many rows hold a document."""
        return int(self._alive.sum())

    def __len__(self) -> int:
        return len(self._alive)

    def build(self, vectors: Float[Tensor, "docs dim"]) -> None:
        """Replaces everything by a copy of these vectors.

        Raises:
            ValueError: There are none, or they are not a matrix.
            NumericError: A vector is not finite, or not of unit length.
        """
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise ValueError(f"vectors: expected (documents, width), neither of them 0; got {tuple(vectors.shape)}")
        with self._lock, torch.inference_mode(False), torch.no_grad():
            store = self._new_store(vectors.shape[1], vectors.device)
            store[store.extend(len(vectors))] = checked(vectors, "vectors")
            self._stored = store
            self._alive = torch.ones(len(vectors), dtype=torch.bool, device=store.device)
            self._rebuild()

    def append(self, vectors: Float[Tensor, "added dim"]) -> Int64[Tensor, "added"]:
        """Adds documents at the end.

        Returns:
            Their rows, on the device of ``vectors``.

        Raises:
            ValueError: The shapes do not match.
            NumericError: A vector is not finite, or not of unit length.
        """
        check_shape(vectors, len(vectors), self._store.dim)
        with self._lock, torch.inference_mode(False), torch.no_grad():
            good = checked(vectors, "vectors")
            rows = self._store.extend(len(good))
            self._store[rows] = good
            self._alive = torch.cat([self._alive, self._alive.new_ones(len(rows))])
            if len(rows):
                self._changed(rows)
        return rows.to(vectors.device)

    def update(self, rows: Int64[Tensor, "changed"], vectors: Float[Tensor, "changed dim"]) -> None:
        """Overwrites the vectors of some documents; removed ones are there again.

        Args:
            rows: Which documents, each at most once.
            vectors: Their new vectors.

        Raises:
            ValueError: A row is out of range or given twice, or the shapes do not match.
            NumericError: A vector is not finite, or not of unit length.
        """
        check_shape(vectors, len(rows), self._store.dim)
        with self._lock, torch.inference_mode(False), torch.no_grad():
            changed = checked_rows(rows, len(self), self._store.device)
            good = checked(vectors, "vectors")
            if len(changed):
                self._store[changed] = good
                self._alive[changed] = True
                self._changed(changed)

    def remove(self, rows: Int64[Tensor, "removed"]) -> None:
        """Takes documents out: no search returns them until :meth:`update` gives them a vector again.

        Raises:
            ValueError: A row is out of range, given twice, or holds no document.
        """
        with self._lock, torch.inference_mode(False), torch.no_grad():
            gone = checked_rows(rows, len(self), self._store.device)
            absent = gone[~self._alive[gone]]
            if len(absent):
                raise ValueError(
                    f"rows: expected rows that hold documents; got {len(absent)} that do not, the first is "
                    f"{int(absent[0])}; remove each document once"
                )
            if len(gone):
                self._alive[gone] = False
                self._changed(gone)

    def map(self, matrix: Float[Tensor, "dim dim"]) -> None:
        """Moves every vector ``v`` to the direction of ``v @ matrix``.

        Vectors that are mapped again and again must not lose a digit each time: what is multiplied is the difference
        from no change, so that a GPU that rounds products (TF32) rounds off a share of the movement alone.

        Args:
            matrix: Takes no vector to zero.
        """
        device = self.device
        change = (matrix - torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)).to(device, torch.float32)
        with self._lock, torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            for rows in torch.arange(len(self), device=device).split(_BLOCK):
                vectors = self._store[rows]
                self._store[rows] = torch.nn.functional.normalize(vectors + vectors @ change, dim=1)
            self._rebuild()

    def merge(self) -> None:  # noqa: B027
        """Works what has changed since the last merge into the structure that searches go through, if there is one.

        It is best done where a run pauses. Hits differ at most by what an approximate structure misses.
        """

    def health(self) -> dict[str, float]:
        """Figures that tell whether searches can be trusted; none where they are exact."""
        return {}

    def search(self, queries: Float[Tensor, "queries dim"], k: int, width: int | None = None) -> Hits:
        """The best documents of each query.

        Args:
            queries: Unit-length vectors on any device.
            k: Results per query; all documents where there are fewer.
            width: Compare the first so many components alone, at unit length again; such a search is always exact.

        Returns:
            Rows and cosines in descending order, ties by ascending row, on the device of the queries.

        Raises:
            ValueError: ``k`` is below one, or the widths differ.
            NumericError: A query is not finite, or not of unit length.
        """
        dim = self._store.dim
        if k < 1:
            raise ValueError(f"k: expected at least 1; got {k}")
        if queries.ndim != 2 or queries.shape[1] != dim:
            raise ValueError(f"queries: expected (queries, {dim}); got {tuple(queries.shape)}")
        device = self._store.device
        with self._lock, torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            asked = checked(queries, "queries").to(device)
            if width is None or width >= dim:
                hits = self._search(asked, min(k, self.live))
            else:
                hits = exact_search(self._store, asked, min(k, self.live), alive=self._alive, width=width)
        return Hits(hits.rows.to(queries.device), hits.scores.to(queries.device))

    def vectors_of(self, rows: Int64[Tensor, "some"]) -> Float[Tensor, "some dim"]:
        """Vectors of some documents in float32, a copy on the device of ``rows``."""
        with self._lock:
            return self._store[rows.to(self._store.device)].to(rows.device)

    def to(self, device: torch.device | str) -> None:
        """Moves the vectors."""
        with self._lock:
            self._store.to(device)
            self._alive = self._alive.to(self._store.device)

    def write(self, folder: Path) -> None:
        """Saves everything that is needed to search on exactly as before.

        Args:
            folder: Exists, and is empty. It receives ``index.json``, ``vectors.safetensors`` and whatever file the kind
                of index adds.
        """
        with self._lock:
            tensors = self._store.tensors | {"alive": self._alive} | self._tensors()
            saving.write_tensors(folder / saving.VECTORS, tensors)
            self._write_structure(folder)
            saving.write_manifest(folder, self._manifest() | {"state": self._facts()})

    def read(self, folder: Path, mapped: bool = False) -> None:
        """Restores what :meth:`write` saved.

        Args:
            folder: What was written to.
            mapped: Leave the vectors in their file, of which a search reads what it needs, and compare the sizes of
                files alone. By default vectors are put in the memory of the CPU, and checksums are compared.

        Raises:
            CheckpointError: The folder holds an index of another kind or with other settings, or a file is missing or
                damaged.
        """
        with self._lock, torch.inference_mode(False), torch.no_grad():
            found = saving.read_manifest(folder)
            saving.check_manifest(found, {"kind": self.kind, "dtype": self.dtype, "settings": self._settings()})
            saving.check_files(folder, found, checksums=not mapped)
            tensors = saving.read_tensors(folder / saving.VECTORS)
            try:
                self._take(folder, found, tensors, mapped)
            except (KeyError, RuntimeError, ValueError) as error:
                raise saving.damaged(folder / saving.MANIFEST, "files that belong together", repr(error)) from error

    def _take(self, folder: Path, found: dict[str, Any], tensors: dict[str, Tensor], mapped: bool) -> None:
        alive, codes = tensors["alive"].clone(), tensors["vectors"]
        shape = {"dim": codes.shape[1], "count": len(codes), "live": int(alive.sum())}
        saving.check_manifest(found, {"space": "cosine", **shape})
        self._stored, self._alive = self._new_store(codes.shape[1], torch.device("cpu")), alive
        self._stored.put(tensors, mapped)
        self._restore(folder, tensors, found["state"])

    def _manifest(self) -> dict[str, Any]:
        shape = {"space": "cosine", "dim": self._store.dim, "count": len(self), "live": self.live}
        return {"kind": self.kind, "dtype": self.dtype, **shape, "settings": self._settings()}

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.settings}

    def _new_store(self, dim: int, device: torch.device) -> VectorStore:
        return VectorStore(self.dtype, dim, device)

    @abstractmethod
    def _search(self, queries: Float[Tensor, "queries dim"], k: int) -> Hits:
        """Searches with checked queries on the vectors' device; ``k`` is at most the number of living documents."""

    def _rebuild(self) -> None:  # noqa: B027
        """Makes whatever structure stands on top of the vectors."""

    def _changed(self, rows: Int64[Tensor, "changed"]) -> None:  # noqa: B027
        """Takes note of rows that were added, overwritten or removed; vectors are already in place."""

    def _tensors(self) -> dict[str, Tensor]:
        """What to save beside the vectors."""
        return {}

    def _facts(self) -> dict[str, Any]:
        """Primitives to save, in the manifest."""
        return {}

    def _write_structure(self, folder: Path) -> None:  # noqa: B027
        """Saves the structure itself, in a file of its own."""

    def _restore(self, folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:  # noqa: B027
        """Takes the structure from a folder that was checked; vectors are already in place."""
