"""Where the vectors themselves are kept: in float32, float16 or int8, in memory or in a file that is mapped to it."""

import tempfile
import weakref
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

Dtype = Literal["float32", "float16", "int8"]
"""How vectors are stored. int8 has a scale per vector, its largest absolute component / 127."""

DTYPES = get_args(Dtype)

_GROWTH = 1.25
_PART = 1 << 16


class VectorStore:
    """A matrix that rows are written to and read from in float32, whatever it is stored in.

    Args:
        dtype: What it is stored in.
        dim: Width of a vector.
        device: Where it is.
        folder: Keeps the matrix in a file there that no other process sees, and that vanishes with this process; by
            default it is in memory.
    """

    def __init__(self, dtype: Dtype, dim: int, device: torch.device, folder: str | None = None) -> None:
        self.dtype, self.dim = dtype, dim
        self._count = 0
        self._file = None if folder is None else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        if self._file is not None:
            weakref.finalize(self, self._file.close)
        self._codes = torch.empty(0, dim, dtype=getattr(torch, dtype), device=device)
        self._scales = torch.empty(0, dtype=torch.float32, device=device)

    def __len__(self) -> int:
        return self._count

    @property
    def shape(self) -> torch.Size:
        """Number of vectors, and their width."""
        return torch.Size([self._count, self.dim])

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return self._codes.device

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is stored, as it is stored; not copies."""
        codes = {"vectors": self._codes[: self._count]}
        return codes | {"scales": self._scales[: self._count]} if self.dtype == "int8" else codes

    def __getitem__(self, rows: slice | Int64[Tensor, "some"]) -> Float[Tensor, "some dim"]:
        """Vectors as float32. A slice of float32 ones is not a copy."""
        codes = self._codes[: self._count][rows].float()
        return codes * self._scales[: self._count][rows, None] if self.dtype == "int8" else codes

    def __setitem__(self, rows: Int64[Tensor, "some"], vectors: Float[Tensor, "some dim"]) -> None:
        for some, part in zip(rows.split(_PART), vectors.split(_PART), strict=True):
            codes = part.to(self.device).float()
            if self.dtype == "int8":
                self._scales[some] = scales = codes.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
                codes = (codes / scales[:, None]).round()
            self._codes[some] = codes.to(self._codes.dtype)

    def extend(self, count: int) -> Int64[Tensor, "count"]:
        """Makes room for some more vectors.

        Returns:
            Their rows, to be written to.
        """
        start, self._count = self._count, self._count + count
        if self._count > len(self._codes):
            self._reserve(self._count if start == 0 else int(_GROWTH * self._count))
        return torch.arange(start, self._count, device=self.device)

    def put(self, tensors: dict[str, Tensor], mapped: bool = False) -> None:
        """Replaces everything by copies of what :attr:`tensors` gave, or by that itself if it is mapped from a file."""
        if mapped:
            self._count, self._codes = len(tensors["vectors"]), tensors["vectors"]
            self._scales = tensors.get("scales", self._scales)
            return
        self._count = 0
        self.extend(len(tensors["vectors"]))
        for name, mine in self.tensors.items():
            for start in range(0, len(mine), _PART):
                mine[start : start + _PART] = tensors[name][start : start + _PART]

    def to(self, device: torch.device | str) -> None:
        """Moves the vectors; those in a file stay on the CPU."""
        if self._file is None:
            self._codes, self._scales = self._codes.to(device), self._scales.to(device)

    def _reserve(self, rows: int) -> None:
        old, scales = self._codes, self._scales
        if self._file is None:
            self._codes = old.new_empty(rows, self.dim)
            self._codes[: len(old)] = old
        else:
            kind = np.dtype(self.dtype)
            self._file.truncate(rows * self.dim * kind.itemsize)
            self._codes = torch.from_numpy(np.memmap(self._file, kind, "r+", shape=(rows, self.dim)))
        self._scales = scales.new_empty(rows)
        self._scales[: len(scales)] = scales
