"""An index that the processes of a run hold together, each a part of it."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.environments.ranks import exchange, rank, several, world
from srch3.errors import CheckpointError, NumericError
from srch3.indexes.base import BaseIndex
from srch3.indexes.checks import checked, checked_rows
from srch3.indexes.exact import ExactIndex
from srch3.indexes.saving import VECTORS, check_files, read_manifest, read_tensors
from srch3.indexes.scan import NONE, ranked
from srch3.types import Hits

_ROWS = 1 << 16


class ShardedIndex(BaseIndex):
    """An index of which every process holds a part: that of rank ``r`` has rows r, r + n, r + 2n, … of all.

    Hits are those of one index of all documents. :meth:`search` and :meth:`vectors_of` are answered by all processes
    together, each with its own questions: whoever asks waits until all others ask too, or call :meth:`finish`. They
    may ask differently often if each ends with :meth:`finish`. Everything else must be called with the same arguments
    everywhere, and does not communicate.

    What it saves is an exact index of all documents in float32, so that any number of processes can read it.

    Args:
        index: An empty index; holds this process' part.
    """

    kind = "sharded"

    def __init__(self, index: BaseIndex) -> None:
        super().__init__(index.dtype)
        self._empty = index
        self._part = copy.deepcopy(index)
        self._dim = 0
        self._collected: Tensor | None = None

    @property
    def vectors(self) -> Float[Tensor, "part dim"]:
        """Those of this process' part."""
        return self._part.vectors

    def build(self, vectors: Float[Tensor, "docs dim"]) -> None:
        """Replaces everything by these vectors, of which this process keeps its part."""
        self.build_from([vectors])

    def build_from(self, blocks: Iterable[Float[Tensor, "some dim"]]) -> None:
        """Replaces everything, without ever having all vectors in memory.

        Args:
            blocks: The vectors of all documents, some at a time, in order.
        """
        parts, count = [], 0
        for block in blocks:
            parts.append(self._own(block, count).clone())
            count += len(block)
        self._part, self._dim = copy.deepcopy(self._empty), parts[0].shape[1]
        self._alive = torch.ones(count, dtype=torch.bool)
        own = torch.cat(parts)
        if len(own):
            self._part.build(own)

    def append(self, vectors: Float[Tensor, "added dim"]) -> Int64[Tensor, "added"]:
        """Adds documents at the end, and gives their rows."""
        count, own = len(self), self._own(checked(vectors, "vectors"), len(self))
        if len(own):
            self._part.append(own) if len(self._part) else self._part.build(own)
        self._alive = torch.cat([self._alive, torch.ones(len(vectors), dtype=torch.bool)])
        return torch.arange(count, len(self), device=vectors.device)

    def update(self, rows: Int64[Tensor, "changed"], vectors: Float[Tensor, "changed dim"]) -> None:
        """Overwrites the vectors of some documents; removed ones are there again."""
        changed = checked_rows(rows, len(self), torch.device("cpu"))
        mine, good = self._mine(changed), checked(vectors, "vectors")
        if mine.any():
            self._part.update(changed[mine] // world(), good[mine.to(good.device)])
        self._alive[changed] = True

    def remove(self, rows: Int64[Tensor, "removed"]) -> None:
        """Takes documents out until :meth:`update` gives them a vector again."""
        gone = checked_rows(rows, len(self), torch.device("cpu"))
        if not self._alive[gone].all():
            raise ValueError("rows: expected rows that hold documents; got some that do not; remove each document once")
        mine = self._mine(gone)
        if mine.any():
            self._part.remove(gone[mine] // world())
        self._alive[gone] = False

    @property
    def device(self) -> torch.device:
        """Where the vectors of this process' part are."""
        return self._part.device if len(self._part) else torch.device("cpu")

    @property
    def maps_in_place(self) -> bool:
        """Whether mapping this process' part costs little, and loses nothing."""
        return self._empty.maps_in_place

    def map(self, matrix: Float[Tensor, "dim dim"]) -> None:
        """Maps the vectors of this process' part."""
        if len(self._part):
            self._part.map(matrix)

    def merge(self) -> None:
        """Works changes into the structure of this process' part."""
        self._part.merge()

    def health(self) -> dict[str, float]:
        """Figures of this process' part."""
        return self._part.health()

    def to(self, device: torch.device | str) -> None:
        """Moves this process' part."""
        if len(self._part):
            self._part.to(device)

    def search(self, queries: Float[Tensor, "queries dim"], k: int, width: int | None = None) -> Hits:
        """The best documents of each of this process' queries, of all documents.

        Raises:
            ValueError: ``k`` is below one, or the widths differ.
            NumericError: A query is not finite, or not of unit length, here or in another process.
        """
        if not several():
            return self._part.search(queries, k, width)
        with torch.inference_mode(False), torch.no_grad():
            answer = self._meet(_Question(queries, k, width or 0, _no_rows()))
        assert answer is not None
        found = answer.hits
        return Hits(found.rows.to(queries.device), found.scores.to(queries.device))

    def vectors_of(self, rows: Int64[Tensor, "some"]) -> Float[Tensor, "some dim"]:
        """Vectors of some documents in float32, a copy on the device of ``rows``."""
        if not several():
            return self._part.vectors_of(rows)
        with torch.inference_mode(False), torch.no_grad():
            answer = self._meet(_Question(torch.empty(0, self._dim), 1, 0, rows))
        assert answer is not None
        return answer.vectors.to(rows.device)

    def finish(self) -> None:
        """Answers the other processes until none has a question left; to be called when this one has none."""
        while several() and self._meet(None) is not None:
            pass

    def collect(self) -> None:
        """Gathers all vectors in the memory of the first process, for :meth:`write`; to be called by all."""
        first = rank() == 0
        blocks = torch.arange(len(self)).split(_ROWS)
        parts = [self.vectors_of(rows if first else _no_rows()).cpu() for rows in blocks]
        self._collected = torch.cat(parts) if first else None

    def write(self, folder: Path) -> None:
        """Saves what :meth:`collect` gathered, as an exact index; to be called by the first process alone."""
        if self._collected is None:
            raise RuntimeError("ShardedIndex: expected collect() in every process before write(); got none")
        whole = ExactIndex()
        exact = self.dtype == "float32"
        whole.build(self._collected if exact else torch.nn.functional.normalize(self._collected, dim=1))
        whole.remove((~self._alive).nonzero()[:, 0])
        self._collected = None
        whole.write(folder)

    def read(self, folder: Path, mapped: bool = False) -> None:
        """Takes this process' part of what was saved, in any number of processes.

        Args:
            folder: What was written to.
            mapped: Not used: parts are copies.

        Raises:
            CheckpointError: It is no exact index in float32, or a file is missing or damaged.
        """
        found = read_manifest(folder)
        if (found.get("kind"), found.get("dtype")) != ("exact", "float32"):
            raise CheckpointError(
                f"index: expected one that was saved by processes that share it; got kind={found.get('kind')!r}, "
                f"dtype={found.get('dtype')!r}; resume with `shards: false`"
            )
        check_files(folder, found)
        tensors = read_tensors(folder / VECTORS)
        self.build(tensors["vectors"])
        self.remove((~tensors["alive"]).nonzero()[:, 0])

    def _search(self, queries: Float[Tensor, "queries dim"], k: int) -> Hits:
        return self._part.search(queries, k)

    def _own(self, block: Float[Tensor, "some dim"], first: int) -> Float[Tensor, "own dim"]:
        """This process' part of vectors that begin at a row."""
        return block[(rank() - first) % world() :: world()]

    def _mine(self, rows: Int64[Tensor, "some"]) -> Tensor:
        return rows % world() == rank()

    def _meet(self, question: "_Question | None") -> "_Answer | None":
        """One exchange of all processes; None when none of them had a question."""
        error = question.error(self._dim) if question is not None else None
        asked = _Question(torch.empty(0, self._dim), 1, 0, _no_rows()) if question is None or error else question
        mine = [question is None, error is not None, len(asked.queries), asked.k, asked.width, len(asked.rows)]
        everyone = exchange(torch.tensor([mine], dtype=torch.int64)).tolist()
        if error is not None:
            raise error
        if any(failed for _, failed, *_ in everyone):
            raise NumericError("queries: expected good ones; another process got others, see its message")
        if all(done for done, *_ in everyone):
            return None
        counts = [(queries, k, width) for _, _, queries, k, width, _ in everyone]
        return _Answer(self._search_together(asked, counts), self._vectors_together(asked.rows, everyone))

    def _search_together(self, asked: "_Question", counts: list[tuple[int, int, int]]) -> Hits:
        sizes = [count for count, _, _ in counts]
        if not any(sizes):
            return Hits(_no_rows().view(0, 0), torch.empty(0, 0))
        mine = slice(sum(sizes[: rank()]), sum(sizes[: rank() + 1]))
        queries = exchange(asked.queries.detach().float()).split(sizes)
        longest = max(k for _, k, _ in counts)
        parts = [self._padded(some, k, width, longest) for some, (_, k, width) in zip(queries, counts, strict=True)]
        rows, scores = (
            exchange(torch.cat(column)[None])[:, mine].transpose(0, 1).flatten(1) for column in zip(*parts, strict=True)
        )
        return ranked(rows, scores, min(asked.k, self.live))

    def _padded(self, queries: Tensor, k: int, width: int, longest: int) -> Hits:
        """What this process' part has for some queries, with ``longest`` places for each."""
        rows = torch.full((len(queries), longest), NONE, dtype=torch.int64, device=queries.device)
        scores = torch.full((len(queries), longest), -torch.inf, dtype=torch.float32, device=queries.device)
        if len(queries) and self._part.live:
            found = self._part.search(queries, k, width or None)
            rows[:, : found.rows.shape[1]] = found.rows * world() + rank()
            scores[:, : found.rows.shape[1]] = found.scores
        return Hits(rows, scores)

    def _vectors_together(self, rows: Tensor, everyone: list[list[int]]) -> Tensor:
        sizes = [count for *_, count in everyone]
        if not any(sizes):
            return torch.empty(0, self._dim)
        wanted = exchange(rows)
        mine = self._mine(wanted)
        vectors = torch.zeros(len(wanted), self._dim, dtype=torch.float32, device=wanted.device)
        if mine.any():
            vectors[mine] = self._part.vectors_of(wanted[mine] // world())
        dist.all_reduce(vectors)
        mine_of_all: tuple[Tensor, ...] = vectors.split(sizes)
        return mine_of_all[rank()]


class _Answer(NamedTuple):
    hits: Hits
    vectors: Tensor


class _Question(NamedTuple):
    queries: Tensor
    k: int
    width: int
    rows: Tensor

    def error(self, dim: int) -> Exception | None:
        """What is wrong with it, to be raised by all processes together."""
        if self.k < 1:
            return ValueError(f"k: expected at least 1; got {self.k}")
        if self.queries.ndim != 2 or self.queries.shape[1] != dim:
            return ValueError(f"queries: expected (queries, {dim}); got {tuple(self.queries.shape)}")
        try:
            checked(self.queries, "queries")
        except NumericError as error:
            return error
        return None


def _no_rows() -> Tensor:
    return torch.empty(0, dtype=torch.int64)
