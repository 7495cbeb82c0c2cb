"""Checkpoint files: written so that a crash or a full disk cannot harm the last good one, read as plain data only."""

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from srch3.errors import CheckpointError

_UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, AttributeError, zipfile.BadZipFile)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Reads and writes checkpoints so that whatever happens, the previous file of the same name survives.

    A checkpoint is written to a hidden file beside its target, forced to disk, and renamed over the target, which the
    operating system does in one step. Files are read with ``weights_only=True`` whatever the caller asks for: tensors
    and plain values, never code. Remote paths (``s3://…``) keep Lightning's own way of writing.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Writes a checkpoint.

        Args:
            checkpoint: What to save.
            path: Where to.
            storage_options: Not supported by the base class, which refuses it.

        Raises:
            CheckpointError: If the file system refuses, for example because the disk is full. The partial file is
                removed; an earlier file at ``path`` is as it was.
        """
        if is_remote(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write_through(checkpoint, partial)
            partial.replace(target)
        except (OSError, RuntimeError) as error:
            with suppress(OSError):
                partial.unlink()
            reason = _os_error_behind(error)
            if reason is None:
                raise
            raise CheckpointError(
                f"checkpoint: cannot write {target}: {reason.strerror or reason}; {_what_is_left(target)}"
            ) from error
        _sync_folder(target.parent)

    def load_checkpoint(
        self,
        path: _PATH,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Reads a checkpoint.

        Args:
            path: The file.
            map_location: Where tensors go, as in ``torch.load``.
            weights_only: Ignored: files are always read as plain data.

        Raises:
            CheckpointError: If the file is absent, damaged, or holds more than tensors and plain values.
        """
        if is_remote(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Reads a local checkpoint as plain data.

    Args:
        path: The file.
        map_location: As in ``torch.load``.
        mmap: Leave tensors on disk until they are used, which makes it cheap to look into a large file.

    Raises:
        CheckpointError: If the file is absent, damaged, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise CheckpointError(f"ckpt_path: expected a checkpoint file; got {path}, which is not a file")
    try:
        content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except OSError as error:
        raise CheckpointError(f"ckpt_path: cannot read {path}: {error.strerror or error}") from error
    except _UNREADABLE as error:
        raise CheckpointError(f"ckpt_path: {path} {_why_unreadable(error)}") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise CheckpointError(f"ckpt_path: {path} is not a checkpoint of a run: it has no state_dict")
    return content


def check_stage(path: Path, model_class: type) -> None:
    """Refuses to resume one stage of training from a checkpoint of another.

    A class may resume what it or one of its base classes saved. Checkpoints that do not say which class they come from
    are let through.

    Args:
        path: The checkpoint.
        model_class: The class that the configuration asks for.

    Raises:
        CheckpointError: If the checkpoint belongs to another class, or cannot be read.
    """
    stage = saved_stage(read_checkpoint(path, mmap=True))
    if stage is None or stage in {base.__name__ for base in model_class.__mro__}:
        return
    raise CheckpointError(
        f"ckpt_path: {path} was saved by {stage}, but `model` is {model_class.__name__}; ckpt_path resumes the same "
        f"stage: to start {model_class.__name__} from these weights use `model.init_args.init_from: {path}` instead"
    )


def saved_stage(checkpoint: Mapping[str, Any]) -> str | None:
    """Name of the module class that saved a checkpoint, if the checkpoint says so."""
    class_path = checkpoint.get("hyper_parameters", {}).get("_class_path")
    stage = class_path.rpartition(".")[2] if class_path else checkpoint.get("srch3", {}).get("stage")
    return str(stage) if stage else None


def is_remote(path: _PATH) -> bool:
    """Whether a path is a URL rather than a file of this machine."""
    return "://" in str(path)


def _write_through(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes and waits until the bytes are on the disk."""
    with path.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable, where the platform can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _os_error_behind(error: BaseException | None) -> OSError | None:
    """The file system's complaint; ``torch.save`` covers it with an error of its own when it closes its archive."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _what_is_left(target: Path) -> str:
    """Says which checkpoint a run can be resumed from after a failed write."""
    if target.is_file():
        return f"the previous {target.name} is intact: make room and resume with --ckpt_path {target}"
    others = sorted(target.parent.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    if others:
        return f"the last good checkpoint is intact: make room and resume with --ckpt_path {others[-1]}"
    return "no earlier checkpoint exists"


def _why_unreadable(error: BaseException) -> str:
    """Puts the reasons for which ``torch.load`` refuses a file into words."""
    forbidden = re.search(r"GLOBAL (\S+)", str(error))
    if forbidden:
        return f"holds an object of {forbidden[1]}; only tensors and plain values are read from a checkpoint"
    return "is damaged or is not a checkpoint; use another one"
