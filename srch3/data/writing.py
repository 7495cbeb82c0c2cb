"""Writing training data anew, with other hard negatives."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from srch3.data.corpus import Corpus
from srch3.errors import ConfigError, DataError


def begin(folder: Path, negatives: Mapping[str, Sequence[str]], query_ids: Collection[str], corpus: Corpus) -> None:
    """Checks what is to be written, and makes the folder.

    Args:
        folder: Where to.
        negatives: Document ids by query id.
        query_ids: All that there are.
        corpus: Holds every document.

    Raises:
        ConfigError: Where the folder holds something.
        DataError: Where an id is unknown.
    """
    for query_id, document_ids in negatives.items():
        if query_id not in query_ids:
            raise DataError(
                f"data: expected hard negatives for training queries; got some for {query_id!r}, which is none"
            )
        for document_id in document_ids:
            corpus.row(document_id)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"data: expected a new or empty folder to write to; got {folder}, which holds something")
    folder.mkdir(parents=True, exist_ok=True)


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes a file of one JSON object per line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in records)
