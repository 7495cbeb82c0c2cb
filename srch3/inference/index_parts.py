"""Embeddings of a corpus in parts, each of which is there whole or not at all."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from srch3.errors import CheckpointError

_TOGETHER = "vectors.partial"


class Parts(NamedTuple):
    """Files of so many embeddings each.

    Attributes:
        folder: Where they are.
        documents: In all parts together.
        size: Documents of a part; the last one may have fewer.
        dim: Width of an embedding.
    """

    folder: Path
    documents: int
    size: int
    dim: int

    @property
    def number(self) -> int:
        """How many parts there are in all."""
        return -(-self.documents // self.size)

    def rows(self, number: int) -> range:
        """Documents of a part."""
        return range(number * self.size, min((number + 1) * self.size, self.documents))

    def missing(self, first: int = 0, step: int = 1) -> Iterator[int]:
        """Parts from the first on, in steps, that are not there when it is their turn."""
        return (number for number in range(first, self.number, step) if not self._path(number).is_file())

    def write(self, number: int, vectors: Float32[np.ndarray, "part dim"]) -> None:
        """Writes a part; the folder has to exist.

        Raises:
            CheckpointError: The file system refuses, for example because the disk is full.
        """
        path = self._path(number)
        partial = path.with_name(f".{path.name}.partial")
        try:
            save_file({"vectors": vectors}, partial, {"digest": _digest(vectors)})
        except SafetensorError as error:
            partial.unlink(missing_ok=True)
            raise CheckpointError(
                f"output: cannot write {path}: {error}; what was written before is intact: make room, and give "
                "the same command again"
            ) from error
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)

    def read(self, number: int) -> Float32[np.ndarray, "part dim"]:
        """Reads a part.

        Raises:
            CheckpointError: It is damaged; it is removed, so that it will be missing.
        """
        path, shape = self._path(number), (len(self.rows(number)), self.dim)
        try:
            with safe_open(path, framework="np") as file:
                vectors: Float32[np.ndarray, "part dim"] = file.get_tensor("vectors")
                good = vectors.shape == shape and (file.metadata() or {}).get("digest") == _digest(vectors)
        except (SafetensorError, OSError):
            good = False
        if not good:
            path.unlink(missing_ok=True)
            raise CheckpointError(
                f"{path}: expected {shape[0]} embeddings as they were written; got a damaged file, which is now "
                "removed; the same command encodes these documents again"
            )
        return vectors

    def together(self) -> Float32[np.ndarray, "documents dim"]:
        """All embeddings, in one more file that is mapped to memory.

        Raises:
            CheckpointError: A part is damaged.
        """
        path = self.folder / _TOGETHER
        with path.open("wb") as file:
            file.truncate(4 * self.documents * self.dim)
        vectors: np.ndarray[Any, Any] = np.memmap(path, np.float32, "r+", shape=(self.documents, self.dim))
        for number in range(self.number):
            rows = self.rows(number)
            vectors[rows.start : rows.stop] = self.read(number)
        return vectors

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"


def _digest(vectors: np.ndarray[Any, Any]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(vectors).data.cast("B"), digest_size=20).hexdigest()
