"""Files of texts to embed: queries, documents, or plain lines."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from srch3.data.documents_file import read_documents, read_queries
from srch3.data.lines import text_lines
from srch3.errors import DataError

_NO_LINES = {".json", ".gz", ".bz2", ".xz", ".zst", ".zip", ".parquet", ".arrow"}


class Texts(NamedTuple):
    """Texts with their ids, in the order of their file.

    Attributes:
        ids: Unique; the numbers of the lines where a file has no ids.
        texts: As many.
    """

    ids: list[str]
    texts: list[str]


def read_query_file(path: str | Path, setting: str) -> Texts:
    """Queries of a file of ``{"_id", "text"}``, of a folder in BEIR's layout, or of plain lines.

    Args:
        path: ``*.jsonl``, a folder with ``queries.jsonl``, or any other file, whose lines are the queries.
        setting: What named it.

    Raises:
        DataError: There is no such file, it has no query, or an id comes twice.
    """
    return _read(Path(path).expanduser(), "queries.jsonl", read_queries, setting)


def read_document_file(path: str | Path, setting: str) -> Texts:
    """Documents of a file of ``{"_id", "title", "text"}``, of a folder in BEIR's layout, or of plain lines.

    Args:
        path: ``*.jsonl``, a folder with ``corpus.jsonl``, or any other file, whose lines are the documents.
        setting: What named it.

    Raises:
        DataError: There is no such file, it has no document, or an id comes twice.
    """
    return _read(Path(path).expanduser(), "corpus.jsonl", read_documents, setting)


def _read(path: Path, name: str, read: Callable[[Path, str], Iterator[tuple[str, str]]], setting: str) -> Texts:
    file = path / name if path.is_dir() else path
    kind = file.suffix.lower()
    if kind in _NO_LINES:
        raise DataError(f"{setting}: expected .jsonl, or a file of plain lines; got {file}; convert it first")
    pairs = read(file, setting) if kind == ".jsonl" else _plain(file, setting)
    found: dict[str, str] = {}
    for text_id, text in pairs:
        if text_id in found:
            raise DataError(f"{setting}: expected each id once in {file}; got {text_id!r} twice")
        found[text_id] = text
    if not found:
        raise DataError(f"{setting}: expected at least one text in {file}; got none")
    return Texts(list(found), list(found.values()))


def _plain(path: Path, setting: str) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, numbered from 1 on as an editor does."""
    for number, (_, line) in enumerate(text_lines(path, setting), start=1):
        if line.strip():
            yield str(number), line.strip()
