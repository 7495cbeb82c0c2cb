"""What a server needs from whatever searches for it; ``srch3.Searcher`` has it."""

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from srch3.types import Mode


class Hit(Protocol):
    """One document that was found."""

    @property
    def id(self) -> str:
        """Of the document."""

    @property
    def score(self) -> float:
        """Cosine similarity, higher is better."""

    @property
    def text(self) -> str:
        """The document itself, title included."""


class Found(Protocol):
    """What one query found."""

    @property
    def thought(self) -> str:
        """What was written before the embedding, empty where nothing was."""

    @property
    def tokens(self) -> int:
        """Written for the thought."""

    @property
    def hits(self) -> Sequence[Hit]:
        """Best first."""


class Searcher(Protocol):
    """Searches a corpus of fixed size; it is called from one thread alone.

    That thread may search while an iterator that it got from ``stream`` rests, and get several of them at once. An
    iterator that is not wanted any more is closed.
    """

    def __len__(self) -> int:
        """Number of documents."""

    def search_many(self, queries: Sequence[str], k: int, mode: Mode) -> Sequence[Found]:
        """What each of the queries finds, in their order."""

    def stream(
        self, query: str, k: int, mode: Mode
    ) -> Iterator[tuple[Literal["thought"], str] | tuple[Literal["found"], Found]]:
        """The thought in pieces as it is written, and at last what was found."""
