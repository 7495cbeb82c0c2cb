"""Cosine similarity, computed in float32 whatever the model computes in."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F


def at_least_float32(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The same numbers in float32, or in float64 if that is what came."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def in_float64(values: Float[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """The same numbers in float64, without gradient; on the CPU where the device has no float64 (Apple's GPUs)."""
    values = values.detach()
    return (values.cpu() if values.device.type == "mps" else values).double()


def normalise(vectors: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """Scales each vector to unit length.

    Args:
        vectors: In any floating-point type; half precision is widened first, so that no ties arise from rounding.

    Returns:
        Unit vectors in float32 (float64 stays); a zero vector stays zero.
    """
    return F.normalize(at_least_float32(vectors), dim=-1)


def truncated(embeddings: Float[Tensor, "batch dim"], width: int) -> Float[Tensor, "batch width"]:
    """The first components alone, at unit length again; see Kusupati et al., 2022 (arXiv 2205.13147)."""
    return embeddings if width == embeddings.shape[1] else normalise(embeddings[:, :width])


def cosine(left: Float[Tensor, "left dim"], right: Float[Tensor, "right dim"]) -> Float[Tensor, "left right"]:
    """All cosine similarities between two sets of unit vectors.

    Autocast is switched off inside: scores in bfloat16 have three digits, and documents tie that should not.

    Args:
        left: Unit length is assumed, see `normalise`.
        right: Unit length is assumed.

    Returns:
        Dot products, float32 (float64 if both are).
    """
    with torch.autocast(left.device.type, enabled=False):
        return at_least_float32(left) @ at_least_float32(right).T
