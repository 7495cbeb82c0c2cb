"""A file of thoughts that is written little by little, and can be gone on with after a kill."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srch3.errors import ConfigError, DataError
from srch3.types import Query


class ThoughtsFile:
    """JSON lines ``{"id", "query", "thought"}``, and a file beside them that says how they came about.

    Args:
        path: The file; the one beside it has ``.settings.json`` added to its name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings_path = path.with_name(f"{path.name}.settings.json")

    def begin(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Begins the file, or makes it ready to go on: a last line that was not finished is cut off.

        A file without content counts as none: a first start that failed, by a wrong model for example, binds nothing.

        Args:
            settings: What decides the thoughts, as plain values.

        Returns:
            The queries that have a thought already: id to text.

        Raises:
            ConfigError: The file was begun with other settings, or by something else.
            DataError: A line of it cannot be read.
        """
        if self.path.exists() and self.path.stat().st_size:
            self._check(settings)
            return self._finished()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.settings_path.with_name(f".{self.settings_path.name}.partial")
        partial.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(self.settings_path)
        self.path.touch()
        return {}

    def append(self, queries: Sequence[Query], thoughts: Sequence[str]) -> None:
        """Adds lines and hands them to the operating system.

        Args:
            queries: Whose thoughts they are.
            thoughts: One per query.
        """
        lines = [
            json.dumps({"id": query.id, "query": query.text, "thought": thought}, ensure_ascii=False) + "\n"
            for query, thought in zip(queries, thoughts, strict=True)
        ]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def _check(self, settings: Mapping[str, Any]) -> None:
        remedy = "give another name, or remove both files to begin anew"
        try:
            saved = json.loads(self.settings_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise ConfigError(
                f"output: expected a new file, or one that think began; got {self.path} without a readable "
                f"{self.settings_path.name} beside it; {remedy}"
            ) from error
        for name, value in settings.items():
            if saved.get(name) != value:
                raise ConfigError(
                    f"output: {self.path} was begun with {name} {saved.get(name)!r}; got {value!r}; {remedy}"
                )

    def _finished(self) -> dict[str, str]:
        done: dict[str, str] = {}
        end = 0
        with self.path.open("r+b") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                    done[record["id"]] = record["query"]
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(
                        f'output: {self.path}:{number}: expected {{"id": …, "query": …, "thought": …}}; got '
                        f"{line[:60]!r}; remove the line to have its thought written again"
                    ) from error
                end += len(line)
            file.truncate(end)
        return done
