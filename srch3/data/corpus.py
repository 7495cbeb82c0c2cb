"""The documents that are searched, in a fixed order."""

from collections.abc import Sequence
from typing import Protocol

from srch3.errors import DataError


class Rows(Protocol):
    """Finds the row of an id, as a dictionary does."""

    def get(self, document_id: str, /) -> int | None:
        """The row, or None where no document has the id."""


class Corpus:
    """Documents in a fixed order; row ``i`` of every matrix of document vectors belongs to ``texts[i]``.

    Neither sequence is copied, so columns that are memory-mapped from a file stay there, in this process and in those
    that get the corpus from it.

    Args:
        ids: Document ids, unique.
        texts: Document texts, title included; as many as ids. A text may be empty.
        rows: Finds the row of an id, where ids and texts are known to be in order; by default they are checked, and a
            dictionary is made of the ids.

    Raises:
        DataError: Where there is no document, an id comes twice, or an id or text is not a string.
    """

    def __init__(self, ids: Sequence[str], texts: Sequence[str], rows: Rows | None = None) -> None:
        if len(ids) == 0:
            raise no_document()
        if len(ids) != len(texts):
            raise DataError(f"corpus: expected as many texts as ids; got {len(texts)} texts for {len(ids)} ids")
        self._ids = ids
        self._texts = texts
        self._rows = _numbered(ids) if rows is None else rows
        if rows is None:
            _check_strings(ids, texts)

    @property
    def ids(self) -> Sequence[str]:
        """Document ids, unique."""
        return self._ids

    @property
    def texts(self) -> Sequence[str]:
        """Document texts, title included."""
        return self._texts

    def __len__(self) -> int:
        """Number of documents."""
        return len(self._ids)

    def __contains__(self, document_id: object) -> bool:
        """Whether there is a document of this id."""
        return isinstance(document_id, str) and self._rows.get(document_id) is not None

    def row(self, document_id: str) -> int:
        """Position of a document.

        Raises:
            DataError: Where no document has this id.
        """
        row = self._rows.get(document_id)
        if row is None:
            raise DataError(f"corpus: expected the id of one of {len(self)} documents; got {document_id!r}")
        return row


def _numbered(ids: Sequence[str]) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, document_id in enumerate(ids):
        if rows.setdefault(document_id, row) != row:
            raise twice(document_id)
    return rows


def no_document() -> DataError:
    """The error of a corpus without documents."""
    return DataError("corpus: expected at least one document; got none; check that the corpus file has lines")


def twice(document_id: str) -> DataError:
    """The error of a corpus in which two documents have the same id."""
    return DataError(f"corpus: expected unique document ids; got {document_id!r} twice; rename or remove one")


def _check_strings(ids: Sequence[str], texts: Sequence[str]) -> None:
    for document_id, text in zip(ids, texts, strict=True):
        if not isinstance(document_id, str):
            raise DataError(f"corpus: expected ids that are strings; got {document_id!r}; write it in quotes")
        if not isinstance(text, str):
            raise DataError(f"corpus: expected a string as the text of document {document_id!r}; got {text!r}")
