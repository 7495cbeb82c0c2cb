"""A corpus with its vectors, and the optimizer step at which each of them was computed."""

import hashlib
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.errors import CheckpointError
from srch3.indexes.base import BaseIndex
from srch3.types import CorpusLike

NEVER = -1
"""The stamp of a document that was not encoded yet."""


class CorpusState:
    """One corpus, its index, and the age of every vector.

    Args:
        corpus: The documents.
        index: An empty index, which this takes over.
    """

    def __init__(self, corpus: CorpusLike, index: BaseIndex) -> None:
        self.corpus = corpus
        self.index = index
        self.stamps: Int64[Tensor, "docs"] = torch.full((len(corpus),), NEVER, dtype=torch.int64)
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.corpus)

    @property
    def fingerprint(self) -> str:
        """A hash of all ids and texts in their order."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for number, text in enumerate(self.corpus.texts):
                for part in (self.corpus.ids[number].encode(), text.encode("utf-8", "surrogatepass")):
                    digest.update(len(part).to_bytes(8, "little"))
                    digest.update(part)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    @property
    def searchable(self) -> bool:
        """Whether every document has a vector."""
        return bool((self.stamps != NEVER).all())

    def stale(self, step: int) -> Int64[Tensor, "stale"]:
        """Rows whose vectors were not computed at this step."""
        return (self.stamps != step).nonzero()[:, 0]

    def missing(self) -> Int64[Tensor, "missing"]:
        """Rows that have no vector."""
        return (self.stamps == NEVER).nonzero()[:, 0]

    def texts(self, rows: Int64[Tensor, "some"]) -> list[str]:
        """Texts of some documents."""
        texts = self.corpus.texts
        return [texts[row] for row in rows.tolist()]

    def store(self, rows: Int64[Tensor, "some"], vectors: Float[Tensor, "some dim"], step: int) -> None:
        """Puts new vectors in place; all of them when there were none before.

        Raises:
            ValueError: There are not as many vectors as rows.
        """
        if len(vectors) != len(rows):
            raise ValueError(f"encode_documents: expected {len(rows)} embeddings, one per text; got {len(vectors)}")
        if len(rows) == len(self):
            self.index.build(vectors)
        else:
            self.index.update(rows, vectors)
        self.stamps[rows] = step

    def state_dict(self) -> dict[str, Any]:
        """Index, stamps, the kind of device, and what tells whether a corpus is the same."""
        return {
            "fingerprint": self.fingerprint,
            "stamps": self.stamps,
            "device": self.index.vectors.device.type,
            "index": self.index.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave.

        Raises:
            CheckpointError: The state belongs to another corpus, or to an index with other settings.
        """
        if state["fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"ckpt_path: expected the corpus that the saved run trained on ({len(state['stamps'])} documents, "
                f"fingerprint {state['fingerprint'][:12]}); got {len(self)} documents, fingerprint "
                f"{self.fingerprint[:12]}; resume with the same data settings, or start a new run with init_from"
            )
        self.index.load_state_dict(state["index"])
        self.stamps = state["stamps"].cpu().clone()
