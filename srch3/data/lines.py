"""Reading files of one JSON object per line, with errors that name the file and the line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from srch3.errors import DataError


class Line:
    """One JSON object of a file.

    Args:
        place: File and line number.
        record: The object.
    """

    def __init__(self, place: str, record: dict[str, Any]) -> None:
        self.place = place
        self._record = record

    def text(self, name: str) -> str:
        """A field that must be there and be a string.

        Raises:
            DataError: Where it is not.
        """
        value = self.optional_text(name)
        if value is None:
            raise DataError(f"{self.place}: expected a field {name!r}; got {sorted(self._record)}")
        return value

    def optional_text(self, name: str) -> str | None:
        """A field that must be a string where it is there; None where it is absent or null.

        Raises:
            DataError: Where it is something else.
        """
        value = self._record.get(name)
        if value is not None and not isinstance(value, str):
            raise DataError(f"{self.place}: expected a string as {name!r}; got {value!r}; write it in quotes")
        return value

    def optional_number(self, name: str) -> float | None:
        """A field that must be a number where it is there (NaN is one); None where it is absent or null.

        Raises:
            DataError: Where it is something else.
        """
        value = self._record.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{self.place}: expected a number as {name!r}; got {value!r}; write it without quotes")
        return float(value)

    def texts(self, name: str) -> list[str]:
        """A field that must be a list of strings where it is there; empty where it is absent or null.

        Raises:
            DataError: Where it is something else.
        """
        value = self._record.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise DataError(f"{self.place}: expected a list of strings as {name!r}; got {value!r}")
        return value

    def required_texts(self, name: str) -> list[str]:
        """A field that must be there and be a list of strings, or null.

        Raises:
            DataError: Where it is not.
        """
        if name not in self._record:
            raise DataError(f"{self.place}: expected a field {name!r}; got {sorted(self._record)}")
        return self.texts(name)


def read_lines(path: Path, setting: str) -> Iterator[Line]:
    """Reads a file of one JSON object per line; empty lines are skipped.

    Args:
        path: The file, in UTF-8.
        setting: What named the file, as it stands in YAML.

    Raises:
        DataError: Where the file is absent or unreadable, or a line is not a JSON object.
    """
    for place, line in text_lines(path, setting):
        if line.strip():
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{place}: expected one JSON object per line; got broken JSON: {error}") from error
            if not isinstance(record, dict):
                raise DataError(f"{place}: expected one JSON object per line; got {line.strip()[:60]}")
            yield Line(place, record)


def text_lines(path: Path, setting: str) -> Iterator[tuple[str, str]]:
    """Reads a text file line by line, each with file and line number.

    Args:
        path: The file, in UTF-8.
        setting: What named the file, as it stands in YAML.

    Raises:
        DataError: Where the file is absent or unreadable.
    """
    if not path.is_file():
        raise DataError(f"{setting}: expected a file at {path}; got none; check the path")
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                yield f"{path}:{number}", line
        except UnicodeDecodeError as error:
            raise DataError(f"{setting}: expected text in UTF-8 at {path}; got {error}") from error
