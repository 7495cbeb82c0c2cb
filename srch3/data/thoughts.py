"""What a model learns to think: the target thought of each training query."""

import logging
import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from srch3.data.lines import read_lines
from srch3.errors import ConfigError, DataError
from srch3.types import CorpusLike, Query

log = logging.getLogger(__name__)

_PATH = "data.init_args.thoughts.init_args.path"
_SUBWORD = re.compile(r"[A-Z]{2,}(?![a-z])|[A-Z]?[^\W\dA-Z_]+|[A-Z]|\d+")


def subwords(text: str) -> list[str]:
    """Lower-cased words; identifiers fall apart into theirs: ``parseHTTPHeader_v2`` gives parse, http, header, v, 2."""
    return [word.lower() for word in _SUBWORD.findall(text)]


class ThoughtSource(ABC):
    """Gives each training query the thought that the model learns to write before it embeds."""

    def fit(  # noqa: B027 (a hook that most sources do not need)
        self, corpus: CorpusLike, queries: Sequence[Query] = ()
    ) -> None:
        """Learns what it needs from the training documents and queries; by default nothing."""

    @abstractmethod
    def __call__(self, query: Query, positive_text: str) -> str:
        """The thought for a query whose positive has this text; empty for none. The same arguments give the same."""


class ColumnThoughts(ThoughtSource):
    """The thought that the data set gives for the query, empty where it gives none."""

    def __call__(self, query: Query, positive_text: str) -> str:
        """The query's own thought."""
        return query.thought or ""


class NoThoughts(ThoughtSource):
    """No thoughts, even where the data set has some."""

    def __call__(self, query: Query, positive_text: str) -> str:
        """Always empty."""
        return ""


class FileThoughts(ThoughtSource):
    """Thoughts that were written beforehand, for example by a larger model.

    The file has one ``{"id": query id, "thought": str}`` per line. A query without a line keeps the thought that the
    data set gives, if any; a line for a query that is not trained on is ignored.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._thoughts: dict[str, str] | None = None

    def fit(self, corpus: CorpusLike, queries: Sequence[Query] = ()) -> None:
        """Reads the thoughts of these queries, and logs how many have none.

        Raises:
            DataError: Where the file is absent or broken, has two lines for a query, or none for any of the queries.
        """
        wanted = {query.id for query in queries}
        thoughts: dict[str, str] = {}
        for line in read_lines(Path(self.path), _PATH):
            query_id, thought = line.text("id"), line.text("thought")
            if query_id in thoughts:
                raise DataError(f"{line.place}: expected one thought per query id; got another for {query_id!r}")
            if query_id in wanted:
                thoughts[query_id] = thought
        if not thoughts:
            raise DataError(
                f"{_PATH}: expected thoughts for training queries in {self.path}; got none for any of {len(wanted)};"
                " write them for this data set"
            )
        if len(thoughts) < len(wanted):
            log.warning(
                "train: %d of %d queries have no thought in %s", len(wanted) - len(thoughts), len(wanted), self.path
            )
        self._thoughts = thoughts

    def __call__(self, query: Query, positive_text: str) -> str:
        """The thought in the file, else the query's own.

        Raises:
            ValueError: Where ``fit`` was not called.
        """
        if self._thoughts is None:
            raise ValueError("FileThoughts: expected fit(corpus, queries) before the first thought")
        return self._thoughts.get(query.id, query.thought or "")


class KeywordThoughts(ThoughtSource):
    """The most informative terms of the positive that the query lacks, the most informative first.

    A term t of a positive weighs (1 + ln tf) · ln(N / df): tf is how often the positive has it, df how many of the N
    training documents do. Terms are lower-cased words; identifiers fall apart into theirs (``snake_case``,
    ``camelCase``), and numbers do not count. Equal weights are in alphabetical order. Writing without spaces between
    words counts as one word.

    Args:
        terms: At most so many terms.
        max_document_frequency: Leave out terms of more than this share of the documents; never those of one document.
        min_document_frequency: Leave out terms of fewer documents: what stands in one document only cannot be
            guessed, and 2 leaves it out.
        min_length: Leave out terms of fewer characters.

    Raises:
        ConfigError: Where a number is out of range.
    """

    def __init__(
        self,
        terms: int = 8,
        max_document_frequency: float = 0.1,
        min_document_frequency: int = 1,
        min_length: int = 2,
    ) -> None:
        settings = {"terms": terms, "min_document_frequency": min_document_frequency, "min_length": min_length}
        for name, value in settings.items():
            if value < 1:
                raise ConfigError(f"data.init_args.thoughts.init_args.{name}: expected at least 1; got {value}")
        if not 0 < max_document_frequency <= 1:
            raise ConfigError(
                "data.init_args.thoughts.init_args.max_document_frequency: expected a share above 0 and at most 1;"
                f" got {max_document_frequency}"
            )
        self.terms = terms
        self.max_document_frequency = max_document_frequency
        self.min_document_frequency = min_document_frequency
        self.min_length = min_length
        self._documents = 0
        self._frequencies: Counter[str] = Counter()

    def fit(self, corpus: CorpusLike, queries: Sequence[Query] = ()) -> None:
        """Counts in how many documents each term stands."""
        self._documents = len(corpus)
        self._frequencies = Counter(term for text in corpus.texts for term in set(subwords(text)))

    def __call__(self, query: Query, positive_text: str) -> str:
        """Terms joined by spaces.

        Raises:
            ValueError: Where ``fit`` was not called.
        """
        if not self._documents:
            raise ValueError("KeywordThoughts: expected fit(corpus) before the first thought")
        counts = Counter(subwords(positive_text))
        known = set(subwords(query.text))
        weighted = [(-self._weight(term, count), term) for term, count in counts.items() if self._fits(term, known)]
        return " ".join(term for _, term in sorted(weighted)[: self.terms])

    def _fits(self, term: str, known: set[str]) -> bool:
        frequency = self._frequencies[term]
        most = max(1.0, self.max_document_frequency * self._documents)
        worthy = term not in known and not term.isdigit() and len(term) >= self.min_length
        return worthy and self.min_document_frequency <= frequency <= most

    def _weight(self, term: str, count: int) -> float:
        return (1 + math.log(count)) * math.log(self._documents / self._frequencies[term])
