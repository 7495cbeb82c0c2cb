"""What vectors and rows must be like before an index takes them."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.errors import NumericError

UNIT_TOLERANCE = 1e-3
"""How far a vector's length may be from one."""


def checked(vectors: Float[Tensor, "any dim"], name: str) -> Float[Tensor, "any dim"]:
    """The same vectors in float32 and without gradient.

    Raises:
        NumericError: One is not finite, or not of unit length.
    """
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


def checked_rows(rows: Int64[Tensor, "some"], count: int, device: torch.device) -> Int64[Tensor, "some"]:
    """The same rows on a device.

    Raises:
        ValueError: One is not below ``count``, or given twice.
    """
    rows = rows.to(device, torch.int64)
    if len(rows) and (rows.min() < 0 or rows.max() >= count):
        raise ValueError(f"rows: expected 0 to {count - 1}; got {int(rows.min())} to {int(rows.max())}")
    if len(rows.unique()) < len(rows):
        raise ValueError("rows: expected each row once; got duplicates")
    return rows


def check_shape(vectors: Tensor, count: int, dim: int) -> None:
    """Refuses anything but ``count`` vectors of a width.

    Raises:
        ValueError: The shape is another.
    """
    if vectors.shape != (count, dim):
        raise ValueError(f"vectors: expected shape {(count, dim)}; got {tuple(vectors.shape)}")
