"""Taking the backbone out of a checkpoint of training."""

import pickle
from pathlib import Path
from typing import Any

import torch

from srch3.backbones.reasoning_embedder import ReasoningEmbedder
from srch3.errors import CheckpointError

PREFIX = "backbone."


def load_backbone(backbone: ReasoningEmbedder, path: str | Path, argument: str) -> None:
    """Copies the backbone's weights out of a checkpoint, and nothing else: no optimizer, step or setting.

    Args:
        backbone: A built model of the same shape as the one in the checkpoint.
        path: A checkpoint written by Lightning.
        argument: What named the file, for errors.

    Raises:
        CheckpointError: There is no such file, it is not a checkpoint, or its model has another shape.
    """
    state = _read(Path(path), argument)
    weights = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{argument}: expected weights that fit {backbone.name!r}, got {str(path)!r}, which differ: "
            f"{' '.join(str(error).split())[:300]}; give model.init_args.backbone the settings of that checkpoint's run"
        ) from error


def check_is_there(path: Path, argument: str) -> None:
    """Refuses a checkpoint that does not exist.

    Args:
        path: The checkpoint.
        argument: What named the file, for errors.

    Raises:
        CheckpointError: There is no such file; says so if a ``last.ckpt`` lies beside it.
    """
    if path.is_file():
        return
    last = path.with_name("last.ckpt")
    remedy = f"; {str(last)!r} beside it does: that run was never validated, or is not over" if last.is_file() else ""
    raise CheckpointError(f"{argument}: expected a checkpoint file, got {str(path)!r}, which does not exist{remedy}")


def _read(path: Path, argument: str) -> dict[str, Any]:
    check_is_there(path, argument)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{argument}: expected a checkpoint of srch3, such as best.ckpt of a run; got {str(path)!r}, which is "
            f"none, or is damaged ({type(error).__name__})"
        ) from error
    return dict(state)
