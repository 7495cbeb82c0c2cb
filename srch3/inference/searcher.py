"""Searching a corpus with a trained model."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from srch3.backbones.querying import EmbeddedQueries
from srch3.errors import CheckpointError, ConfigError, DataError
from srch3.indexes import BaseIndex
from srch3.inference.embedder import Embedder, Progress
from srch3.inference.index_folder import open_index
from srch3.inference.precision import Precision
from srch3.types import CorpusLike, Mode

_WRITES_NOTHING = ("direct", "empty", "copied")


class Hit(NamedTuple):
    """One document that was found.

    Attributes:
        id: Of the document.
        score: Cosine similarity, higher is better.
        text: The document itself, title included.
    """

    id: str
    score: float
    text: str


class Found(NamedTuple):
    """What one query found.

    Attributes:
        query: As it was asked.
        thought: What was written before the embedding, empty where nothing was.
        hits: Best first.
        tokens: How many were written for the thought, embed token included; 0 where nothing was.
        seconds: What it took; of queries that were asked together, each one's share.
    """

    query: str
    thought: str
    hits: list[Hit]
    tokens: int
    seconds: float


class Searcher:
    """A model with a corpus and the index of its documents; several threads may call, and take turns.

    Args:
        embedder: The model.
        corpus: The documents.
        index: Their embeddings by this model, row by row.

    Raises:
        ConfigError: Corpus, index and model do not belong together.
    """

    def __init__(self, embedder: Embedder, corpus: CorpusLike, index: BaseIndex) -> None:
        if len(corpus) != len(index):
            raise ConfigError(f"index: expected as many vectors as the {len(corpus)} documents; got {len(index)}")
        self.embedder, self.corpus, self.index = embedder, corpus, index

    @classmethod
    def load(
        cls,
        folder: str | Path,
        model: str | Path | None = None,
        device: str | torch.device | None = None,
        precision: Precision | None = None,
        verify: bool = False,
    ) -> "Searcher":
        """Opens an index that ``python -m srch3 index`` wrote, and loads its model.

        Documents and vectors stay on the disk until they are needed.

        Args:
            folder: The index.
            model: Where the weights are that it was built with; by default where they were then.
            device: Where queries are embedded; by default on a GPU, where there is one.
            precision: In which they are; by default float32 if documents are, otherwise ``auto``.
            verify: Whether to compare the checksums of files beyond a gigabyte too.

        Raises:
            CheckpointError: The index is damaged or not finished, or was built with other weights.
            ModelError: There is no such model.
        """
        opened = open_index(folder, verify)
        built = opened.manifest["model"]
        where = Path(built["path"] if model is None else model)
        if model is None and not (where.is_absolute() and where.exists()):
            raise CheckpointError(
                f"model: expected the weights that {str(folder)!r} was built with at {str(where)!r}; got nothing "
                "there; give their present place as model"
            )
        embedder = Embedder.load(
            where, device, precision or ("float32" if built["precision"] == "float32" else "auto"), model is not None
        )
        if embedder.revision != built["revision"]:
            raise CheckpointError(
                f"model: {str(folder)!r} was built with the weights {built['revision'][:12]} ({built['given']}); got "
                f"{embedder.revision[:12]} ({where}); give those weights, or build an index with these"
            )
        return cls(embedder, opened.corpus, opened.index)

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.corpus)

    def search(self, query: str, k: int = 10, mode: Mode = "thinking") -> Found:
        """What a query finds.

        Args:
            query: What is searched for.
            k: How many hits; all documents where there are fewer.
            mode: As in ``srch3.types.Mode``: ``thinking``, or ``direct`` for no thought.

        Raises:
            ConfigError: There is no such mode, or ``k`` is below one.
            DataError: The query is not a text, or blank.
        """
        check_query(query)
        return self.search_many([query], k, mode)[0]

    def search_many(
        self, queries: Sequence[str], k: int = 10, mode: Mode = "thinking", on_progress: Progress | None = None
    ) -> list[Found]:
        """What each of several queries finds, which takes less time than one after the other.

        Args:
            queries: What is searched for.
            k: How many hits each; all documents where there are fewer.
            mode: As in ``srch3.types.Mode``.
            on_progress: Called with the number of queries after each part of them.

        Raises:
            ConfigError: There is no such mode, or ``k`` is below one.
            DataError: A query is not a text, or blank.
        """
        began = time.perf_counter()
        _check(k)
        for place, query in enumerate([] if isinstance(queries, str) else queries):
            check_query(query, f" at place {place}")
        embedded = self.embedder.embed_queries(queries, [mode], on_progress)[mode]
        hits = self._hits(embedded.embeddings, k)
        seconds = (time.perf_counter() - began) / max(1, len(hits))
        return [
            Found(query, thought, found, _written(length, mode), seconds)
            for query, thought, length, found in zip(queries, embedded.thoughts, embedded.lengths, hits, strict=True)
        ]

    def stream(
        self, query: str, k: int = 10, mode: Mode = "thinking"
    ) -> Iterator[tuple[Literal["thought"], str] | tuple[Literal["found"], Found]]:
        """The thought in pieces as it is written, and at last what was found.

        Args:
            query: What is searched for.
            k: How many hits; all documents where there are fewer.
            mode: As in ``srch3.types.Mode``.

        Yields:
            ``("thought", piece)`` any number of times, then ``("found", Found)``. Closing the iterator ends the work.

        Raises:
            ConfigError: There is no such mode, or ``k`` is below one.
            DataError: The query is not a text, or blank.
        """
        began = time.perf_counter()
        _check(k)
        check_query(query)
        pieces = self.embedder.stream(query, mode)
        try:
            while True:
                try:
                    yield "thought", next(pieces)
                except StopIteration as stop:
                    embedded: EmbeddedQueries = stop.value
                    break
        finally:
            pieces.close()
        (hits,) = self._hits(embedded.embeddings, k)
        tokens = _written(embedded.lengths[0], mode)
        yield "found", Found(query, embedded.thoughts[0], hits, tokens, time.perf_counter() - began)

    def _hits(self, embeddings: Float[Tensor, "queries dim"], k: int) -> list[list[Hit]]:
        if not len(embeddings):
            return []
        found = self.index.search(embeddings, k)
        pairs = zip(found.rows.tolist(), found.scores.tolist(), strict=True)
        return [[self._hit(row, score) for row, score in zip(rows, scores, strict=True)] for rows, scores in pairs]

    def _hit(self, row: int, score: float) -> Hit:
        return Hit(self.corpus.ids[row], score, self.corpus.texts[row])


def check_query(query: object, place: str = "") -> None:
    """Refuses a query that asks for nothing.

    Args:
        query: What is searched for.
        place: Where it stands among others, for the error.

    Raises:
        DataError: It is blank.
    """
    if isinstance(query, str) and not query.strip():
        raise DataError(f"query: expected a text that is not blank; got {query!r}{place}")


def _check(k: int) -> None:
    if k < 1:
        raise ConfigError(f"k: expected at least 1; got {k}")


def _written(length: int, mode: Mode) -> int:
    return 0 if mode in _WRITES_NOTHING else length
