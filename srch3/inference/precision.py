"""In which precision a model embeds."""

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]
"""Of the weights and of what is computed with them; embeddings are normalised, and compared, in float32 always.

``auto`` takes bfloat16 where the processor multiplies in it faster than in float32, and float32 elsewhere: on CPUs with
the instructions AVX512-BF16 or AMX, and on NVIDIA GPUs from Ampere on. What bfloat16 rounds off depends on the shape of
the batch; an embedding hardly moves, but a thought may go on differently. On a CPU ``auto`` therefore embeds documents
alone in bfloat16, with a second copy of the weights, and queries, and whatever is written, in float32.
"""


def resolve(precision: Precision, device: torch.device) -> torch.dtype:
    """The type of the weights.

    Args:
        precision: What was asked for.
        device: Where they are to be.
    """
    if precision == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions of its own for bfloat16, rather than converting to float32 and back."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001 (since 2.6)
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return False
