"""Data sets that give each query with the texts of its documents, from which a corpus is gathered."""

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

from srch3.data.base import RetrievalDataModule
from srch3.data.corpus import Corpus
from srch3.data.selection import hold_out
from srch3.errors import DataError
from srch3.types import Query, Split

log = logging.getLogger(__name__)


class Example(NamedTuple):
    """A query with the texts of its documents.

    Attributes:
        query: Query text.
        positives: Texts of relevant documents.
        negatives: Texts of documents known to look relevant and not to be.
        thought: The reasoning for this query, if any.
        id: Of the query; by default a hash of its text.
    """

    query: str
    positives: list[str]
    negatives: list[str]
    thought: str | None = None
    id: str | None = None


class DocumentPool:
    """Documents gathered from many places, each text once.

    A text that is met without an id gets a hash of it as its id, the same on every machine.
    """

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._ids: dict[str, str] = {}

    def add(self, document_id: str, text: str) -> None:
        """Adds a document with its own id; of documents with the same text, the first stands for the text.

        Raises:
            DataError: Where the id is taken.
        """
        if document_id in self._texts:
            raise DataError(f"corpus: expected unique document ids; got {document_id!r} twice; rename or remove one")
        self._texts[document_id] = text
        self._ids.setdefault(text, document_id)

    def id_of(self, text: str) -> str:
        """The id of a text, which is added where it is new."""
        if text not in self._ids:
            self.add(text_id(text), text)
        return self._ids[text]

    def corpus(self) -> Corpus:
        """All documents in the order of their coming."""
        return Corpus(list(self._texts), list(self._texts.values()))


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
        self._gathered: tuple[dict[Split, list[Query]], Corpus] | None = None

    @abstractmethod
    def given(self, split: Split) -> bool:
        """Whether there are examples of this split: ``train``, ``val`` or ``test``."""

    @abstractmethod
    def examples(self, split: Split) -> Iterator[Example]:
        """Reads the examples of a split that is given."""

    def documents(self) -> Iterator[tuple[str, str]]:
        """Ids and texts of more documents to search; by default none."""
        return iter(())

    def has(self, split: Split) -> bool:
        """Whether the split is given; validation can always be held out."""
        return split == "val" or self.given("test" if split == "predict" else split)

    def load(self, split: Split) -> list[Query]:
        """The queries of a split; prediction takes those of the test split."""
        queries, _ = self._gather()
        if split in ("test", "predict"):
            if "test" not in queries:
                raise DataError(f"{self.test_setting}: expected examples to {split} with; got none")
            return queries["test"]
        if "val" in queries:
            return queries[split]
        kept, held = hold_out(queries["train"], self.val_fraction, "data.init_args.val_fraction")
        if split == "train":
            return kept
        log.warning("no validation examples: %d of the training queries are held out for validation", len(held))
        return held

    def load_corpus(self, split: Split) -> Corpus:
        """The corpus of all splits."""
        return self._gather()[1]

    def _gather(self) -> tuple[dict[Split, list[Query]], Corpus]:
        if self._gathered is None:
            pool = DocumentPool()
            for document_id, text in self.documents():
                pool.add(document_id, text)
            splits: tuple[Split, ...] = ("train", "val", "test")
            queries = {split: _queries(self.examples(split), pool) for split in splits if self.given(split)}
            self._gathered = queries, pool.corpus()
        return self._gathered


def text_id(text: str) -> str:
    """A hash of a text as its id."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=12).hexdigest()


def _queries(examples: Iterable[Example], pool: DocumentPool) -> list[Query]:
    queries: dict[str, Query] = {}
    for example in examples:
        relevant = {pool.id_of(text): 1 for text in example.positives}
        negatives = tuple(pool.id_of(text) for text in example.negatives)
        query_id = text_id(example.query) if example.id is None else example.id
        query = Query(query_id, example.query, relevant, negatives, example.thought)
        queries[query_id] = _merged(queries[query_id], query) if query_id in queries else query
    return list(queries.values())


def _merged(first: Query, second: Query) -> Query:
    if first.text != second.text:
        raise DataError(
            f"data: expected one text per query id; got {first.text!r} and {second.text!r} for {first.id!r}"
        )
    relevant = first.relevant | second.relevant
    negatives = tuple(dict.fromkeys(first.negatives + second.negatives))
    return Query(first.id, first.text, relevant, negatives, first.thought or second.thought)
