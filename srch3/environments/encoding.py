"""Encoding documents with the model of the moment, with a progress bar where it takes a while."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int64
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from srch3.environments.progress import PATIENCE, encoding_bar
from srch3.environments.ranks import encode_sharded, world
from srch3.environments.state import CorpusState

TEXTS_AT_ONCE = 8192
"""Documents that a process reads and tokenises together."""


def encode(
    trainer: L.Trainer, state: CorpusState, rows: Int64[Tensor, "some"], what: str, show_progress: bool
) -> Float[Tensor, "some dim"]:
    """Vectors of some documents, which all processes encode together, and all of them get.

    Args:
        trainer: Of the present run; its model needs ``encode_documents``.
        state: The corpus.
        rows: Which documents, at least one; the same in every process.
        what: What the progress bar calls them.
        show_progress: Whether it may appear.
    """
    began = time.perf_counter()
    model: Any = trainer.lightning_module
    bar = encoding_bar(f"Encoding {what}", len(rows), show_progress and trainer.is_global_zero)
    blocks = rows.split(TEXTS_AT_ONCE * world())
    with torch.no_grad(), bar as advance:
        progress = partial(_advance_all, advance)
        parts = [
            encode_sharded(state.texts(some), partial(model.encode_documents, on_progress=progress)) for some in blocks
        ]
        vectors = torch.cat(parts)
    seconds = time.perf_counter() - began
    if seconds >= PATIENCE:
        rank_zero_info(f"environment: encoded {len(rows)} documents in {seconds:.1f} s ({what})")
    return vectors


def _advance_all(advance: Callable[[int], None], count: int) -> None:
    """Counts what the other processes have encoded meanwhile, which is about as much."""
    advance(count * world())
