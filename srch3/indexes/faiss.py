"""Approximate search in inverted lists of compressed vectors (Jégou et al., 2011), through faiss."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.errors import ConfigError
from srch3.indexes.base import ARGUMENTS
from srch3.indexes.proposing import ProposingIndex
from srch3.indexes.saving import damaged
from srch3.indexes.store import Dtype, VectorStore

_PER_LIST = 39
_TRAINED_ON = 64
_MARGIN = 32


class FaissIndex(ProposingIndex):
    """Inverted lists of compressed vectors propose documents, which are then compared as they are stored.

    It is for corpora whose vectors, or the graph over them, do not fit in memory: with ``vectors_folder`` the vectors
    are in a file, of which a search reads only the rows that were proposed. Needs ``pip install 'srch3[faiss]'``.

    Lists and codes are trained when the structure is built. Documents that change later are put into the lists as they
    are, and everything is trained anew where that makes probes worse.

    Args:
        codes: How faiss stores a vector within a list, as in its factory: ``SQ8`` takes a byte per component, ``PQ64``
            64 bytes in all, with which ``refine`` should be 4 or more.
        lists: Into which documents are divided; by default four times the root of their number.
        nprobe: Lists that a search looks at. It is doubled, up to 8 times what is given here, until the probes reach
            ``min_recall``.
        refine: Documents proposed for each hit that is asked for.
        overlay_share: Share of the documents that may wait, compared exactly, before they are put into the lists.
        min_recall: Share of the nearest documents that the probes must find; search is exact where the lists do not.
        threads: Of building and searching.
        seed: Of the training.
        dtype: How vectors are stored beside the codes.
        vectors_folder: Holds them in a file there that vanishes with the process; by default they are in memory.
    """

    kind = "faiss"
    settings = ("codes", "lists", "nprobe", "refine", "overlay_share", "min_recall", "seed")
    fold_share = 0.5

    def __init__(
        self,
        codes: str = "SQ8",
        lists: int | None = None,
        nprobe: int = 32,
        refine: int = 2,
        overlay_share: float = 0.05,
        min_recall: float = 0.97,
        threads: int = 1,
        seed: int = 0,
        dtype: Dtype = "float16",
        vectors_folder: str | None = None,
    ) -> None:
        for name, value in (("lists", lists), ("nprobe", nprobe), ("refine", refine), ("threads", threads)):
            if value is not None and value < 1:
                raise ConfigError(f"{ARGUMENTS}.{name}: expected at least 1; got {value}")
        if vectors_folder is not None and not Path(vectors_folder).is_dir():
            raise ConfigError(f"{ARGUMENTS}.vectors_folder: expected a folder that exists; got {vectors_folder}")
        super().__init__(nprobe, overlay_share, min_recall, dtype)
        self.codes, self.lists, self.nprobe, self.refine = codes, lists, nprobe, refine
        self.threads, self.seed, self.vectors_folder = threads, seed, vectors_folder
        self._faiss = _library()
        self._inverted: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_faiss": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _faiss=_library())

    def _new_store(self, dim: int, device: torch.device) -> VectorStore:
        if self.vectors_folder is None:
            return super()._new_store(dim, device)
        return VectorStore(self.dtype, dim, torch.device("cpu"), self.vectors_folder)

    def _construct(self, rows: Int64[Tensor, "alive"]) -> None:
        self._inverted = None
        if len(rows) == 0:
            return
        count = self.lists or max(1, min(round(4 * len(rows) ** 0.5), len(rows) // _PER_LIST))
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(rows), generator=generator)[: max(_TRAINED_ON * count, 1 << 15)].sort().values
        taught = torch.cat([vectors for _, vectors in self._parts(rows[chosen.to(rows.device)])])
        with self._threads():
            try:
                self._inverted = self._faiss.index_factory(self._store.dim, f"IVF{count},{self.codes}")
                self._inverted.cp.seed = self.seed
                self._inverted.cp.min_points_per_centroid = 1
                self._inverted.train(taught.numpy())
            except RuntimeError as error:
                raise ConfigError(
                    f"{ARGUMENTS}.codes: expected what faiss can train on {len(rows)} documents of width "
                    f"{self._store.dim}; got {self.codes!r} ({str(error).splitlines()[-1]}); SQ8 always works"
                ) from error
        self._add(rows)

    def _insert(self, rows: Int64[Tensor, "changed"]) -> None:
        gone = np.flatnonzero(~self._settled.cpu().numpy())
        with self._threads():
            self._inverted.remove_ids(self._faiss.IDSelectorBatch(gone))
        self._add(rows)

    def _add(self, rows: Int64[Tensor, "some"]) -> None:
        with self._threads():
            for part, vectors in self._parts(rows):
                self._inverted.add_with_ids(vectors.numpy(), part.numpy())

    def _hide(self, rows: Int64[Tensor, "changed"]) -> None:
        """Nothing to do: searches select what is settled."""

    def _propose(self, queries: Float[Tensor, "queries dim"], k: int, effort: int) -> Int64[Tensor, "queries any"]:
        settings: dict[str, Any] = {"nprobe": min(effort, self._inverted.nlist)}
        shown = np.packbits(self._settled.cpu().numpy(), bitorder="little")
        if not self._settled.all():
            settings["sel"] = self._faiss.IDSelectorBitmap(shown)
        with self._threads():
            wanted = min(max(self.refine * k, k + _MARGIN), self._size())
            parameters = self._faiss.SearchParametersIVF(**settings)
            _, rows = self._inverted.search(queries.numpy(), wanted, params=parameters)
        return torch.from_numpy(rows)

    def _size(self) -> int:
        return 0 if self._inverted is None else int(self._inverted.ntotal)

    def _save(self, path: Path) -> None:
        self._faiss.write_index(self._inverted, str(path))

    def _load(self, path: Path) -> None:
        try:
            self._inverted = self._faiss.read_index(str(path))
        except RuntimeError as error:
            raise damaged(path, "an index of faiss", f"{error}") from error

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """Sets the threads of OpenMP, which torch may share, and puts them back."""
        before = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(self.threads)
        try:
            yield
        finally:
            self._faiss.omp_set_num_threads(before)


def _library() -> Any:
    """The module, which is imported after torch so that both use one OpenMP."""
    try:
        import faiss
    except ImportError as error:
        raise ConfigError("index: expected faiss for FaissIndex; got none; pip install 'srch3[faiss]'") from error
    return faiss
