"""What lies in the folder of an index, and whether it is what was written there."""

import inspect
import json
import os
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srch3.data.corpus import Corpus
from srch3.data.stored import open_corpus
from srch3.errors import CheckpointError
from srch3.indexes import BaseIndex

FORMAT = 1
MANIFEST = "manifest.json"
PLAN = "building.json"
DOCUMENTS = "documents"
INDEX = "index"
PARTS = "parts"

SMALL_FILE = 1 << 30
"""Files of more bytes than this are compared by checksum only where that is asked for."""

_BLOCK = 1 << 22


@dataclass(frozen=True)
class OpenedIndex:
    """An index with its documents, neither of which is read before it is needed.

    Attributes:
        folder: Where it is.
        manifest: What was indexed, with what.
        corpus: The documents, mapped from their file.
        index: Their vectors, mapped from theirs; a structure that proposes documents is in memory.
    """

    folder: Path
    manifest: dict[str, Any]
    corpus: Corpus
    index: BaseIndex


def open_index(folder: str | Path, verify: bool = False) -> OpenedIndex:
    """Opens what ``python -m srch3 index`` wrote.

    The size of every file is compared with what was written, and the checksum of those up to a gigabyte.

    Args:
        folder: Where it is.
        verify: Whether to read the larger files too, for their checksums.

    Raises:
        CheckpointError: There is no finished index, or a file of it is missing, truncated or changed.
    """
    place = Path(folder).expanduser()
    manifest = read_manifest(place)
    for name, expected in manifest["files"].items():
        check_file(place / name, expected, verify or expected["bytes"] <= SMALL_FILE)
    index = index_from(manifest["index"], place / MANIFEST)
    index.read(place / INDEX, mapped=True)
    corpus = open_corpus(place / DOCUMENTS)
    if len(corpus) != len(index):
        raise damaged(place / MANIFEST, f"as many vectors as the {len(corpus)} documents", f"{len(index)}")
    return OpenedIndex(place, manifest, corpus, index)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished index.

    Raises:
        CheckpointError: There is none.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / PLAN).is_file():
            raise CheckpointError(
                f"index: expected a finished index; got {str(folder)!r}, which is not finished; the `index` command "
                "that began it goes on from there"
            )
        raise CheckpointError(
            f"index: expected a folder that `python -m srch3 index` wrote; got {str(folder)!r}, which has no {MANIFEST}"
        )
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"index: expected format {FORMAT} in {path}; got {manifest.get('format')!r}; build the index again with "
            "this version of srch3"
        )
    parts = {"files": dict, "index": dict, "model": dict}
    if wrong := [name for name, kind in parts.items() if not isinstance(manifest.get(name), kind)]:
        raise damaged(path, f"the entry {wrong[0]!r}", "none")
    return manifest


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object.

    Raises:
        CheckpointError: The file holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, "JSON", str(error)) from error
    if not isinstance(found, dict):
        raise damaged(path, "a JSON object", type(found).__name__)
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file that is there whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def files_of(folder: Path, *names: str) -> dict[str, dict[str, int]]:
    """Size and checksum of every file in some folders within a folder."""
    paths = sorted(path for name in names for path in (folder / name).iterdir())
    return {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "crc32": checksum(path)} for path in paths}


def check_file(path: Path, expected: Mapping[str, int], with_checksum: bool) -> None:
    """Compares a file with what was written about it.

    Raises:
        CheckpointError: It is missing, truncated or changed.
    """
    if not path.is_file():
        raise damaged(path, "a file", "none")
    if path.stat().st_size != expected["bytes"]:
        raise damaged(path, f"{expected['bytes']} bytes", f"{path.stat().st_size}")
    if with_checksum and (found := checksum(path)) != expected["crc32"]:
        raise damaged(path, f"checksum {expected['crc32']}", f"{found}")


def checksum(path: Path) -> int:
    """CRC-32 of a file, a block at a time."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value


def damaged(path: Path, expected: str, got: str) -> CheckpointError:
    """What to raise about a file that is not as it was written."""
    return CheckpointError(
        f"{path}: expected {expected}; got {' '.join(got.split())[:200]}; the index is damaged: copy it again from "
        "where it was built, or remove it and build it anew"
    )


def describe_index(index: BaseIndex) -> dict[str, Any]:
    """The class of an index, and the settings that change what it finds, as plain values."""
    kind = type(index)
    return {
        "class_path": f"{kind.__module__}.{kind.__qualname__}",
        "dtype": index.dtype,
        "settings": {name: getattr(index, name) for name in index.settings},
    }


def index_from(described: Mapping[str, Any], path: Path) -> BaseIndex:
    """An empty index of the described kind; nothing is imported for it.

    Args:
        described: What :func:`describe_index` gave.
        path: Where it stands, for errors.

    Raises:
        CheckpointError: The class is unknown, or takes other arguments.
    """
    module, _, name = str(described.get("class_path")).rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    if not (inspect.isclass(kind) and issubclass(kind, BaseIndex)):
        raise CheckpointError(
            f"{path}: expected an index whose class has been imported; got {described.get('class_path')!r}; if you "
            f"trust it, import {module or 'its module'} in Python before you open the index"
        )
    try:
        return kind(dtype=described["dtype"], **described["settings"])
    except (TypeError, KeyError) as error:
        raise damaged(path, f"settings of {name}", str(error)) from error
