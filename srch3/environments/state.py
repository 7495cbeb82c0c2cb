"""A corpus with its vectors, and the optimizer step at which each of them was computed."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from srch3.data.changing import ChangingCorpus, fingerprint_of
from srch3.environments.correction import BaseCorrection
from srch3.environments.frame import FramedIndex
from srch3.environments.shards import ShardedIndex
from srch3.environments.storage import Generation, Identity, Snapshot
from srch3.indexes.base import BaseIndex
from srch3.types import CorpusLike

NEVER = -1
"""The stamp of a document that was not encoded yet."""

_MORE, _CHANGES = "more.", "corpus.jsonl"

Encode = Callable[[Int64[Tensor, "some"]], Float[Tensor, "some dim"]]
"""Encodes the documents of some rows with the model of the moment."""


class CorpusState:
    """One corpus, its index, and the age of every vector.

    Args:
        corpus: The documents.
        index: An empty index, which this takes over.

    Attributes:
        searcher: The vectors as the model has them.
        stamps: The optimizer step at which each document was encoded.
        moved: Cosine distance from where each document was thought to be to where its last encoding found it; NaN where
            it was encoded once at most.
        revision: A number that grows with every change of the index.
    """

    def __init__(self, corpus: CorpusLike, index: BaseIndex) -> None:
        self.corpus = corpus
        self.index = index
        self.searcher = FramedIndex(index)
        self.stamps: Int64[Tensor, "docs"] = torch.full((len(corpus),), NEVER, dtype=torch.int64)
        self.moved: Float[Tensor, "docs"] = torch.full((len(corpus),), torch.nan)
        self.revision = 0
        self._version = corpus.version if isinstance(corpus, ChangingCorpus) else 0
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.stamps)

    @property
    def fingerprint(self) -> str:
        """A hash of all ids and texts in their order."""
        if self._fingerprint is None or isinstance(self.corpus, ChangingCorpus):
            self._fingerprint = fingerprint_of(self.corpus)
        return self._fingerprint

    @property
    def changed(self) -> bool:
        """Whether documents were added, replaced or removed."""
        return self._version > 0

    @property
    def searchable(self) -> bool:
        """Whether every document has a vector."""
        return bool((self.stamps != NEVER).all())

    @property
    def alive(self) -> Bool[Tensor, "docs"]:
        """Documents that were not removed."""
        if len(self.index):
            return self.index.alive.cpu()
        if isinstance(self.corpus, ChangingCorpus):
            return torch.from_numpy(self.corpus.alive[: len(self)])
        return torch.ones(len(self), dtype=torch.bool)

    def stale(self, step: int) -> Int64[Tensor, "stale"]:
        """Rows whose vectors were not computed at this step."""
        return (self.alive & (self.stamps != step)).nonzero()[:, 0]

    def missing(self) -> Int64[Tensor, "missing"]:
        """Rows of documents that have no vector."""
        return (self.alive & (self.stamps == NEVER)).nonzero()[:, 0]

    def texts(self, rows: Int64[Tensor, "some"]) -> list[str]:
        """Texts of some documents."""
        texts = self.corpus.texts
        return [texts[row] for row in rows.tolist()]

    def store(self, rows: Int64[Tensor, "some"], vectors: Float[Tensor, "some dim"], step: int) -> None:
        """Puts new vectors in place; those of all documents when there were none before.

        Where most are new everything is rebuilt, but not if the processes share the index: none of them has it all.

        Raises:
            ValueError: There are not as many vectors as rows.
        """
        if len(vectors) != len(rows):
            raise ValueError(f"encode_documents: expected {len(rows)} embeddings, one per text; got {len(vectors)}")
        first, documents = not self.searchable, int(self.alive.sum())
        if first and len(rows) < documents:
            raise ValueError(f"rows: expected all {documents} documents to be encoded at first; got {len(rows)}")
        most = 2 * len(rows) > len(self) and not isinstance(self.index, ShardedIndex)
        if first or most or len(rows) == len(self):
            self._rebuild(rows, vectors)
            self.stamps[~self.alive] = step
        else:
            self.searcher.update(rows, vectors)
        self.stamps[rows] = step
        self.revision += 1

    def _rebuild(self, rows: Int64[Tensor, "some"], vectors: Float[Tensor, "some dim"]) -> None:
        every, removed = vectors, (~self.alive).nonzero()[:, 0]
        if len(rows) < len(self):
            others = torch.arange(len(self), device=vectors.device)
            every = self.searcher.vectors_of(others) if self.searchable else vectors[:1].repeat(len(self), 1)
            every[rows.to(vectors.device)] = vectors
        self.searcher.build(every, removed)

    def follow(self, encode: Encode, step: int) -> int:
        """Takes over the changes of the corpus since the last call.

        Args:
            encode: Encodes documents with the present weights.
            step: Optimizer steps done.

        Returns:
            How many documents were encoded for it.
        """
        if not isinstance(self.corpus, ChangingCorpus) or self.corpus.version == self._version or not self.searchable:
            return 0
        with torch.inference_mode(False), torch.no_grad():
            changes, known = self.corpus.changes_since(self._version), len(self)
            grown = range(known, len(self.corpus))
            rows = torch.tensor(sorted({*changes.texts, *grown}), dtype=torch.int64)
            self.stamps = torch.cat([self.stamps, torch.full((len(grown),), step)])
            self.moved = torch.cat([self.moved, torch.full((len(grown),), torch.nan)])
            if len(rows):
                vectors = encode(rows).clone()
                old = (rows < known).to(vectors.device)
                self.searcher.update(rows[rows < known], vectors[old])
                if grown:
                    self.searcher.append(vectors[~old])
                self.stamps[rows], self.moved[rows] = step, torch.nan
            removed = torch.tensor(changes.removed, dtype=torch.int64)
            self.index.remove(removed[self.index.alive.cpu()[removed]])
        self._version, self.revision = changes.version, self.revision + 1
        return len(rows)

    def correct(
        self, correction: BaseCorrection, rows: Int64[Tensor, "some"], found: Float[Tensor, "some dim"], step: int
    ) -> None:
        """Moves all stale documents as those move that were encoded again, and notes what that does not explain.

        Args:
            correction: Fits the map.
            rows: What was encoded again.
            found: Where the present model has them.
            step: Optimizer steps done; documents of this stamp stay where they are.
        """
        everything = len(rows) == len(self)
        matrix = None if everything else correction.fit(self.searcher.vectors_of(rows.to(found.device)), found)
        if matrix is not None:
            fresh = (self.alive & (self.stamps == step)).nonzero()[:, 0].to(found.device)
            exact = self.searcher.vectors_of(fresh)
            self.searcher.move(matrix)
            self.searcher.update(fresh, exact)
            self.revision += 1
        self.moved[rows] = (1 - (self.searcher.vectors_of(rows.to(found.device)) * found).sum(dim=1)).float().cpu()

    def finish(self) -> None:
        """Helps the other processes with the searches that they have left, if they share the index."""
        if isinstance(self.index, ShardedIndex):
            self.index.finish()

    def collect(self) -> None:
        """Brings the vectors of all processes to the first one, which saves them, if they share the index."""
        if isinstance(self.index, ShardedIndex):
            self.index.collect()

    def snapshot(self, step: int, more: Mapping[str, Tensor], values: Mapping[str, Any]) -> Snapshot:
        """What has to be saved to go on from here.

        Args:
            step: Optimizer steps done.
            more: Further tensors.
            values: Plain values.
        """
        tensors = {"stamps": self.stamps, "moved": self.moved}
        tensors |= {f"{_MORE}{name}": tensor for name, tensor in more.items()}
        if self.searcher.matrix is not None:
            tensors["matrix"] = self.searcher.matrix
            values = {**values, "frame": [self.searcher.slack, self.searcher.moves]}
        where = {"device": self.index.device.type}
        files = {_CHANGES: self.corpus.write} if isinstance(self.corpus, ChangingCorpus) else {}
        revision = self.revision + self.index.searches
        return Snapshot(self.index, revision, self.fingerprint, step, tensors, {**where, **values}, files)

    def restore(self, saved: Generation, weights: str | None) -> dict[str, Tensor]:
        """Goes on from what :meth:`snapshot` gave, with the vectors on the CPU.

        Args:
            saved: What was found beside the checkpoint.
            weights: Digest of the model that the checkpoint holds; None where a strategy has taken it out already.

        Returns:
            The further tensors.

        Raises:
            CheckpointError: It belongs to another corpus or model, to an index with other settings, or is damaged.
        """
        if isinstance(self.corpus, ChangingCorpus):
            self.corpus.read(saved.folder / _CHANGES)
            self._version = self.corpus.version
        saved.check(Identity(self.fingerprint, len(self.corpus), weights or saved.identity.weights))
        tensors = saved.tensors()
        self.index.read(saved.index_folder)
        self.stamps, self.moved = tensors["stamps"], tensors["moved"]
        if "matrix" in tensors:
            self.searcher.restore(tensors["matrix"], *saved.values["frame"])
        return {name.removeprefix(_MORE): tensor for name, tensor in tensors.items() if name.startswith(_MORE)}
