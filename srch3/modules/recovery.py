"""Where to go back to once a run has gone wrong."""

import pickle
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

_UNREADABLE = (
    OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, AttributeError, pickle.UnpicklingError
)  # fmt: skip


def last_good_checkpoint(trainer: L.Trainer, step: int) -> str | None:
    """The newest checkpoint from before a step, among those that the run keeps or began with.

    Args:
        trainer: Of the run.
        step: Optimizer steps that made the first bad weights. A checkpoint after as many steps holds these.

    Returns:
        Its path, or nothing where no local file is that old.
    """
    paths = {str(trainer.ckpt_path or "")}
    for keeper in trainer.checkpoint_callbacks:
        if isinstance(keeper, ModelCheckpoint):
            paths |= _kept_by(keeper)
    steps = {path: _step_of(path) for path in sorted(paths) if Path(path).is_file()}
    earlier = {path: taken for path, taken in steps.items() if 0 <= taken < step}
    return max(earlier, key=lambda path: earlier[path], default=None)


def way_back(trainer: L.Trainer, step: int) -> str:
    """The end of an error's message: what to resume from.

    Args:
        trainer: Of the run.
        step: As in :func:`last_good_checkpoint`.
    """
    path = last_good_checkpoint(trainer, step)
    if path is None:
        return "no checkpoint from before is left, so start again"
    return f"resume from the last good checkpoint with --ckpt_path {path}"


def _kept_by(keeper: ModelCheckpoint) -> set[str]:
    """Paths of its checkpoints, of which it has no list where it keeps all."""
    listed = {keeper.last_model_path, keeper.best_model_path, *keeper.best_k_models}
    if keeper.save_top_k == -1 and keeper.dirpath:
        return listed | {str(path) for path in Path(keeper.dirpath).glob(f"*{keeper.FILE_EXTENSION}")}
    return listed


def _step_of(path: str) -> int:
    """Optimizer steps of a checkpoint, whose tensors stay on the disk; -1 where it does not say."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return int(content["global_step"])
    except _UNREADABLE:
        return -1
