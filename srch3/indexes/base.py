"""What every index promises: row ``i`` is document ``i``, vectors have unit length, and scores are exact cosines."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.errors import CheckpointError, NumericError
from srch3.functional.similarity import truncated
from srch3.indexes.scan import exact_search
from srch3.types import Hits

ARGUMENTS = "environment.init_args.index.init_args"
"""Where the arguments of an index stand in YAML."""

UNIT_TOLERANCE = 1e-3
"""How far a vector's length may be from one."""


class BaseIndex(ABC):
    """Holds the float32 vectors of all documents and finds the nearest ones by cosine.

    Vectors stay on the device that they were built on. Whatever structure a subclass adds only proposes documents:
    scores are always computed from the vectors themselves, so that two indexes never disagree on a score.
    """

    kind: ClassVar[str]
    """Name in saved states."""

    def __init__(self) -> None:
        self._vectors: Tensor | None = None

    @property
    def vectors(self) -> Float[Tensor, "docs dim"]:
        """The vectors as they are now; not a copy.

        Raises:
            RuntimeError: Nothing was built yet.
        """
        if self._vectors is None:
            raise RuntimeError(
                f"{type(self).__name__}: expected build() or load_state_dict() first; got an empty index"
            )
        return self._vectors

    def __len__(self) -> int:
        return 0 if self._vectors is None else len(self._vectors)

    def build(self, vectors: Float[Tensor, "docs dim"]) -> None:
        """Replaces everything by a copy of these vectors.

        Raises:
            ValueError: There are none, or they are not a matrix.
            NumericError: A vector is not finite, or not of unit length.
        """
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise ValueError(f"vectors: expected (documents, width), neither of them 0; got {tuple(vectors.shape)}")
        with torch.inference_mode(False), torch.no_grad():
            self._vectors = _checked(vectors, "vectors").clone(memory_format=torch.contiguous_format)
            self._rebuild()

    def update(self, rows: Int64[Tensor, "changed"], vectors: Float[Tensor, "changed dim"]) -> None:
        """Overwrites the vectors of some documents.

        Args:
            rows: Which documents, each at most once.
            vectors: Their new vectors.

        Raises:
            ValueError: A row is out of range or given twice, or the shapes do not match.
            NumericError: A vector is not finite, or not of unit length.
        """
        current = self.vectors
        if vectors.shape != (len(rows), current.shape[1]):
            raise ValueError(
                f"vectors: expected shape {(len(rows), current.shape[1])} for these rows; got {tuple(vectors.shape)}"
            )
        if len(rows) == 0:
            return
        if rows.min() < 0 or rows.max() >= len(current):
            raise ValueError(f"rows: expected 0 to {len(current) - 1}; got {int(rows.min())} to {int(rows.max())}")
        if len(rows.unique()) < len(rows):
            raise ValueError("rows: expected each row once; got duplicates")
        with torch.inference_mode(False), torch.no_grad():
            changed = rows.to(current.device, torch.int64)
            current[changed] = _checked(vectors, "vectors").to(current.device)
            self._overwritten(changed)

    def search(self, queries: Float[Tensor, "queries dim"], k: int, width: int | None = None) -> Hits:
        """The best documents of each query.

        Args:
            queries: Unit-length vectors on any device.
            k: Results per query; all documents where there are fewer.
            width: Compare the first so many components alone, at unit length again; such a search is always exact.

        Returns:
            Rows and cosines in descending order, ties by ascending row, on the device of the queries.

        Raises:
            ValueError: ``k`` is below one, or the widths differ.
            NumericError: A query is not finite, or not of unit length.
        """
        vectors = self.vectors
        if k < 1:
            raise ValueError(f"k: expected at least 1; got {k}")
        if queries.ndim != 2 or queries.shape[1] != vectors.shape[1]:
            raise ValueError(f"queries: expected (queries, {vectors.shape[1]}); got {tuple(queries.shape)}")
        with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
            asked = _checked(queries, "queries").to(vectors.device)
            if width is None or width >= vectors.shape[1]:
                hits = self._search(asked, min(k, len(vectors)))
            else:
                hits = exact_search(truncated(vectors, width), truncated(asked, width), min(k, len(vectors)))
        return Hits(hits.rows.to(queries.device), hits.scores.to(queries.device))

    def vectors_of(self, rows: Int64[Tensor, "some"]) -> Float[Tensor, "some dim"]:
        """Vectors of some documents, on the device of ``rows``."""
        return self.vectors[rows.to(self.vectors.device)].to(rows.device)

    def to(self, device: torch.device | str) -> None:
        """Moves the vectors."""
        self._vectors = self.vectors.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to search on exactly as before: tensors and primitives only."""
        return {"manifest": self._manifest(), "vectors": self.vectors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave.

        Raises:
            CheckpointError: The state comes from an index of another kind or with other settings.
        """
        found, vectors = state["manifest"], state["vectors"]
        expected = self._manifest() | {"dim": vectors.shape[1], "count": len(vectors)}
        for name in [*expected, *(found.keys() - expected.keys())]:
            if found.get(name) != expected.get(name):
                raise CheckpointError(
                    f"index: the saved one has {name}={found.get(name)!r}; got {expected.get(name)!r}; "
                    "resume with the index settings of the saved run"
                )
        with torch.inference_mode(False), torch.no_grad():
            self._vectors = _checked(vectors, "vectors").clone()
            self._restore(state)

    def _manifest(self) -> dict[str, Any]:
        width = 0 if self._vectors is None else self._vectors.shape[1]
        return {"kind": self.kind, "space": "cosine", "dim": width, "count": len(self)}

    @abstractmethod
    def _search(self, queries: Float[Tensor, "queries dim"], k: int) -> Hits:
        """Searches with checked queries on the vectors' device; ``k`` is at most the number of documents."""

    def _rebuild(self) -> None:
        """Makes whatever structure stands on top of ``vectors``."""
        return

    def _overwritten(self, rows: Int64[Tensor, "changed"]) -> None:
        """Adapts that structure to new vectors, which are already in place."""
        return

    def _restore(self, state: dict[str, Any]) -> None:
        """Takes that structure from a state whose manifest was checked; vectors are already in place."""
        return


def _checked(vectors: Float[Tensor, "any dim"], name: str) -> Float[Tensor, "any dim"]:
    vectors = vectors.detach().float()
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    infinite = int((~lengths.isfinite()).sum())
    if infinite:
        raise NumericError(
            f"{name}: expected finite numbers; got NaN or infinity in {infinite} of {len(vectors)} embeddings; lower "
            "the learning rate, clip gradients (trainer.gradient_clip_val) or train in bf16 in place of float16"
        )
    wrong = lengths[(lengths - 1).abs() > UNIT_TOLERANCE]
    if len(wrong):
        raise NumericError(
            f"{name}: expected unit length within {UNIT_TOLERANCE}; got {len(wrong)} of {len(vectors)} embeddings that "
            f"differ, the first of length {float(wrong[0]):.4g}; normalise them in float32 (a length of zero means "
            "that there was no embed token to read)"
        )
    return vectors
