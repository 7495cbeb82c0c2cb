"""Finding texts among millions by their hashes, in sorted numpy arrays: a few bytes for each, and no Python object."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt64
from numpy.typing import NDArray

_DIGEST = 12
_RECORD = np.dtype([("hash", "<u8"), ("rest", "<u4")])
_LATEST = 1 << 18


def digest_of(text: str) -> bytes:
    """Twelve bytes that stand for a text, the same on every machine; equal ones are taken for equal texts."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=_DIGEST).digest()


class Lookup:
    """Rows of a column by what stands in them.

    A file holds the first eight bytes of every row's digest, sorted, and the row of each. Equal hashes are told apart
    by reading the column, so that collisions cost time and nothing else. Pickles as paths.

    Args:
        path: The file that :func:`write_lookup` wrote, memory-mapped.
        column: What was hashed.
    """

    def __init__(self, path: Path, column: Sequence[str]) -> None:
        self._place = path, column
        self._column = column
        self._hashes, self._rows = np.asarray(np.load(path, mmap_mode="r"))

    def __reduce__(self) -> tuple[type["Lookup"], tuple[Path, Sequence[str]]]:
        return Lookup, self._place

    def get(self, text: str) -> int | None:
        """The first row in which the text stands, or None."""
        wanted = np.frombuffer(digest_of(text), _RECORD)["hash"][0]
        place = int(self._hashes.searchsorted(wanted))
        while place < len(self._hashes) and self._hashes[place] == wanted:
            row = int(self._rows[place])
            if self._column[row] == text:
                return row
            place += 1
        return None

    def repeated(self) -> str | None:
        """A text that stands in more than one row, if there is any."""
        for place in np.flatnonzero(self._hashes[1:] == self._hashes[:-1]) + 1:
            row = int(self._rows[place])
            text = self._column[row]
            if self.get(text) != row:
                return text
        return None


def write_lookup(path: Path, digests: bytes | bytearray) -> None:
    """Writes what :class:`Lookup` reads.

    Args:
        path: The file.
        digests: Of every row in order, one after the other.
    """
    hashes: UInt64[np.ndarray, "rows"] = np.frombuffer(digests, _RECORD)["hash"]
    order = hashes.argsort(kind="stable")
    np.save(path, np.stack([hashes[order], order.astype(np.uint64)]))


class Seen:
    """Remembers digests, twelve bytes for each but for the latest."""

    def __init__(self) -> None:
        self._sorted: NDArray[np.bytes_] = np.empty(0, f"S{_DIGEST}")
        self._latest: set[bytes] = set()

    def add(self, digest: bytes) -> bool:
        """Takes note of a digest; says whether it is new."""
        if digest in self._latest or self._is_sorted_in(digest):
            return False
        self._latest.add(digest)
        if len(self._latest) == _LATEST:
            values = np.sort(np.array(list(self._latest), self._sorted.dtype))
            self._sorted = np.insert(self._sorted, self._sorted.searchsorted(values), values)
            self._latest = set()
        return True

    def _is_sorted_in(self, digest: bytes) -> bool:
        place = int(self._sorted.searchsorted(np.bytes_(digest)))
        # numpy drops zero bytes at the end of what it gives out
        return place < len(self._sorted) and bool(self._sorted[place] == digest.rstrip(b"\0"))
