"""Files that are on the disk, and not only about to be."""

import os
import zlib
from contextlib import suppress
from pathlib import Path

_BLOCK = 1 << 20


def sync(path: Path) -> None:
    """Forces a file to disk, or the names in a folder, where the platform can."""
    with suppress(PermissionError):  # other platforms cannot open folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value


def stored(path: Path) -> dict[str, int]:
    """Forces a file to disk; its size and checksum."""
    sync(path)
    return {"bytes": path.stat().st_size, "crc32": checksum(path)}
