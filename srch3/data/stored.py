"""Corpora on disk: written once, and from then on memory-mapped."""

import time
from pathlib import Path
from types import TracebackType

from rich import get_console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from srch3.data.columns import Column, ColumnWriter
from srch3.data.corpus import Corpus, no_document, twice
from srch3.data.lookup import Lookup, digest_of, write_lookup

_DOCUMENTS = "documents.arrow"
_BY_ID = "by_id.npy"
_BETWEEN_TICKS = 10_000
_PATIENCE = 2.0


class CorpusWriter:
    """Writes documents to a folder, in which :func:`open_corpus` finds them; shows a line where it takes a while.

    Args:
        folder: Where to; it exists.

    Raises:
        DataError: At the end, where there was no document or an id came twice.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._columns = ColumnWriter(folder / _DOCUMENTS, "id", "text")
        self._digests = bytearray()
        self._count = 0
        self._began = time.perf_counter()
        line = TextColumn("preparing the corpus: {task.completed:,.0f} documents")
        self._bar = Progress(line, TimeElapsedColumn(), console=get_console(), transient=True)
        self._task = self._bar.add_task("", total=None)

    def __len__(self) -> int:
        """Documents written so far."""
        return self._count

    def add(self, document_id: str, text: str) -> None:
        """Writes a document."""
        self._columns.append(document_id, text)
        self._digests += digest_of(document_id)
        self._count += 1
        if self._count % _BETWEEN_TICKS == 0:
            self._bar.update(self._task, completed=self._count)
            if time.perf_counter() - self._began > _PATIENCE:
                self._bar.start()

    def __enter__(self) -> "CorpusWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._columns.__exit__(kind, error, trace)
        if error is None:
            self._index()

    def _index(self) -> None:
        if not self._count:
            raise no_document()
        write_lookup(self._folder / _BY_ID, self._digests)
        repeated = Lookup(self._folder / _BY_ID, Column(self._folder / _DOCUMENTS, "id")).repeated()
        if repeated is not None:
            raise twice(repeated)


def open_corpus(folder: Path) -> Corpus:
    """The documents that were written to a folder, none of which is read before it is asked for."""
    ids = Column(folder / _DOCUMENTS, "id")
    return Corpus(ids, Column(folder / _DOCUMENTS, "text"), Lookup(folder / _BY_ID, ids))
