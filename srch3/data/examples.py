"""Data sets that give each query with the texts of its documents, from which a corpus is gathered."""

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from srch3.data.base import RetrievalDataModule
from srch3.data.cache import cached
from srch3.data.corpus import Corpus
from srch3.data.lookup import Lookup, Seen, digest_of, write_lookup
from srch3.data.selection import hold_out
from srch3.data.stored import CorpusWriter, open_corpus
from srch3.errors import DataError
from srch3.types import Query, Split

log = logging.getLogger(__name__)

_BY_TEXT = "by_text.npy"


class Example(NamedTuple):
    """A query with the texts of its documents.

    Attributes:
        query: Query text.
        positives: Texts of relevant documents.
        negatives: Texts of documents known to look relevant and not to be.
        thought: The reasoning for this query, if any.
        id: Of the query; by default a hash of its text.
        weight: Importance in training.
    """

    query: str
    positives: list[str]
    negatives: list[str]
    thought: str | None = None
    id: str | None = None
    weight: float = 1.0


class DocumentPool:
    """Documents gathered from many places, each text once, in a folder on disk.

    A text that was met without an id has a hash of it as its id, the same on every machine.

    Args:
        folder: Where :func:`write_pool` put them.
    """

    def __init__(self, folder: Path) -> None:
        self.corpus = open_corpus(folder)
        by_text = folder / _BY_TEXT
        self._by_text = Lookup(by_text, self.corpus.texts) if by_text.exists() else None

    def id_of(self, text: str) -> str:
        """The id of a text that is in the pool."""
        row = self._by_text.get(text) if self._by_text is not None else None
        return text_id(text) if row is None else self.corpus.ids[row]


def write_pool(folder: Path, documents: Iterable[tuple[str, str]], texts: Iterable[str]) -> None:
    """Writes what :class:`DocumentPool` reads, in the order of its coming.

    Args:
        folder: Where to; it exists.
        documents: Ids and texts; all of them are kept, and of those with the same text the first stands for the text.
        texts: More texts, of which those that are new get an id.

    Raises:
        DataError: Where there is nothing, or an id comes twice.
    """
    seen = Seen()
    digests = bytearray()
    with CorpusWriter(folder) as writer:
        for document_id, text in documents:
            writer.add(document_id, text)
            digest = digest_of(text)
            seen.add(digest)
            digests += digest
        if digests:
            write_lookup(folder / _BY_TEXT, digests)
        for text in texts:
            if seen.add(digest_of(text)):
                writer.add(text_id(text), text)


class ExampleDataModule(RetrievalDataModule):
    """Queries that come with the texts of their documents.

    A subclass says which splits are given and reads them. The corpus, shared by all splits, is the union of all texts;
    equal texts are one document. Lines with the same query (the same id, or the same text where there is no id) are
    one query with several relevant documents. Without validation examples, part of the training queries is held out.

    Args:
        val_fraction: Expected share of the training queries that is held out where no validation examples are given.
        **kwargs: What ``RetrievalDataModule`` takes.
    """

    test_setting: ClassVar[str]

    def __init__(self, val_fraction: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.val_fraction = val_fraction
        self._read: dict[Split, list[Query]] = {}

    @abstractmethod
    def given(self, split: Split) -> bool:
        """Whether there are examples of this split: ``train``, ``val`` or ``test``."""

    @abstractmethod
    def examples(self, split: Split) -> Iterator[Example]:
        """Reads the examples of a split that is given."""

    @abstractmethod
    def sources(self) -> tuple[list[str], object]:
        """The files that the documents come from, and what else decides over them, as JSON."""

    def documents(self) -> Iterator[tuple[str, str]]:
        """Ids and texts of more documents to search; by default none."""
        return iter(())

    def has(self, split: Split) -> bool:
        """Whether the split is given; validation can always be held out."""
        return split == "val" or self.given("test" if split == "predict" else split)

    def load(self, split: Split) -> list[Query]:
        """The queries of a split; prediction takes those of the test split."""
        if split in ("test", "predict"):
            if not self.given("test"):
                raise DataError(f"{self.test_setting}: expected examples to {split} with; got none")
            return self._queries_in("test")
        if self.given("val"):
            return self._queries_in(split)
        kept, held = hold_out(self._queries_in("train"), self.val_fraction, "data.init_args.val_fraction")
        if split == "train":
            return kept
        log.warning("no validation examples: %d of the training queries are held out for validation", len(held))
        return held

    def load_corpus(self, split: Split) -> Corpus:
        """The corpus of all splits, memory-mapped from a cache that is written anew when the examples have changed."""
        return self._pool.corpus

    @cached_property
    def _pool(self) -> DocumentPool:
        return DocumentPool(cached("examples", *self.sources(), self._write))

    def _write(self, folder: Path) -> None:
        splits: tuple[Split, ...] = ("train", "val", "test")
        examples = chain.from_iterable(self.examples(split) for split in splits if self.given(split))
        write_pool(
            folder,
            self.documents(),
            chain.from_iterable(chain(example.positives, example.negatives) for example in examples),
        )

    def _queries_in(self, split: Split) -> list[Query]:
        if split not in self._read:
            pool = self._pool
            self._read[split] = queries_of(self.examples(split), pool.id_of)
        return self._read[split]


def text_id(text: str) -> str:
    """A hash of a text as its id."""
    return digest_of(text).hex()


def queries_of(examples: Iterable[Example], id_of: Callable[[str], str]) -> list[Query]:
    """The queries of examples, in the order of their coming; those with the same id are one.

    Args:
        examples: With the texts of their documents.
        id_of: Gives the id of a document's text.

    Raises:
        DataError: Where an id stands for two texts, or a query has two weights.
    """
    queries: dict[str, Query] = {}
    for example in examples:
        relevant = {id_of(text): 1 for text in example.positives}
        negatives = tuple(id_of(text) for text in example.negatives)
        query_id = text_id(example.query) if example.id is None else example.id
        query = Query(query_id, example.query, relevant, negatives, example.thought, example.weight)
        queries[query_id] = _merged(queries[query_id], query) if query_id in queries else query
    return list(queries.values())


def _merged(first: Query, second: Query) -> Query:
    if first.text != second.text:
        raise DataError(
            f"data: expected one text per query id; got {first.text!r} and {second.text!r} for {first.id!r}"
        )
    together = first.weight + second.weight
    if math.isfinite(together) and first.weight != second.weight:
        raise DataError(
            f"data: expected one weight per query; got {first.weight} and {second.weight} for {first.id!r};"
            " give the same weight wherever it comes"
        )
    relevant = first.relevant | second.relevant
    negatives = tuple(dict.fromkeys(first.negatives + second.negatives))
    weight = first.weight if math.isfinite(together) else together
    return Query(first.id, first.text, relevant, negatives, first.thought or second.thought, weight)
