"""Documents and queries as BEIR's files have them, one JSON object per line."""

from collections.abc import Iterator
from pathlib import Path

from srch3.data.lines import read_lines


def read_documents(path: Path, setting: str) -> Iterator[tuple[str, str]]:
    """Id and text of every document in a file of ``{"_id", "title", "text"}``.

    A document's text is its title, which may be absent, a space, and its text.

    Args:
        path: The file, in UTF-8.
        setting: What named the file.

    Raises:
        DataError: The file is absent or unreadable, or a line is no document.
    """
    for line in read_lines(path, setting):
        yield line.text("_id"), f"{line.optional_text('title') or ''} {line.text('text')}".strip()


def read_queries(path: Path, setting: str) -> Iterator[tuple[str, str]]:
    """Id and text of every query in a file of ``{"_id", "text"}``.

    Args:
        path: The file, in UTF-8.
        setting: What named the file.

    Raises:
        DataError: The file is absent or unreadable, or a line is no query.
    """
    for line in read_lines(path, setting):
        yield line.text("_id"), line.text("text")
