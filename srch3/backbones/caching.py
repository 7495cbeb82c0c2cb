"""Gradient caching: forward passes that keep nothing but their results, and are computed again when needed."""

import ctypes
import sys
from collections.abc import Callable
from itertools import count
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")

_PASSES_PER_TRIM = 4
_passes = count(1)
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def recomputed(function: Callable[[], Result], cache: bool, device: torch.device) -> Result:
    """The result of a forward pass, whose activations are either kept or computed again in the backward pass.

    A batch that is embedded in several such passes, followed by a loss over all of them, costs the activations of one
    pass at a time: the backward pass first computes the gradient of every embedding, then goes through the passes one
    after the other. That is GradCache (Gao et al., 2021, arXiv 2101.06983). Random states and autocast are as they were
    in the first computation, so that dropout draws the same.

    Args:
        function: Computes a tensor, or a tuple with tensors, from inputs that need no gradient.
        cache: False keeps the activations.
        device: Where it computes; the random state of this device is kept and restored, beside that of the CPU.
    """
    if not cache or not torch.is_grad_enabled():
        return function()

    def trimmed(place: Tensor) -> Result:
        if place.device.type == "cpu" and next(_passes) % _PASSES_PER_TRIM == 0:
            _return_free_memory()
        return function()

    result: Result = checkpoint(trimmed, torch.empty(0, device=device), use_reentrant=False)
    return result


def _return_free_memory() -> None:
    """Hands freed memory back to the system where glibc would keep it.

    Each pass leaves a small result among the large activations that it frees. On a CPU the holes between the results
    would add up to several times the memory in use.
    """
    if _trim is not None:
        _trim(0)
