"""An embedder without a model: each text has a direction of its own."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class FakeEmbedder:
    """What an index is built with, as far as building looks at it.

    Attributes:
        encoded: Texts, in the order in which they were encoded.
    """

    def __init__(self, revision: str = "a" * 40, dim: int = 8, precision: str = "float32") -> None:
        self.revision, self.dim, self.precision = revision, dim, precision
        self.encoded: list[str] = []

    def encode_documents(self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None) -> Any:
        self.encoded += texts
        if on_progress:
            on_progress(len(texts))
        return vectors_of(texts, self.dim)


def vectors_of(texts: Sequence[str], dim: int = 8) -> Any:
    """Unit vectors that depend on the texts alone."""
    drawn = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(dim) for text in texts]
    return np.stack([(vector / np.linalg.norm(vector)).astype(np.float32) for vector in drawn])
