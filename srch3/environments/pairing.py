"""Checkpoints and the index folders beside them: ``last.ckpt`` and ``last.ckpt.index``, always of the same moment.

The index is written first, as a generation of its own. The checkpoint then names that generation, and becomes visible
in one step; only then do earlier generations go. Whenever a run is killed, the checkpoint that is there therefore finds
its index: the old one with the old, or the new one with the new.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities import rank_zero_warn

from srch3.environments.storage import (
    Generation,
    Snapshot,
    keep_only,
    open_generation,
    weights_digest,
    write_generation,
)

GENERATION = "generation"
"""Where a callback's state in a checkpoint names the generation that belongs to it."""


def index_folder(checkpoint: _PATH) -> Path:
    """The folder beside a checkpoint."""
    path = Path(checkpoint)
    return path.with_name(f"{path.name}.index")


class PairedCheckpointIO(CheckpointIO):
    """Writes an index beside every checkpoint that resumes a run, and removes it with the checkpoint.

    Two checkpoints with the same index share its files by hard links. Checkpoints of weights alone, and those at remote
    paths (``s3://…``), get no index.

    Args:
        base: Reads and writes the checkpoints themselves; a save of it must be complete when it returns.
        state_key: Name of the callback in whose state the generation is named.
        snapshot: What to save, or None; asked on the process that writes checkpoints alone, so that it must not
            communicate.
    """

    def __init__(self, base: CheckpointIO, state_key: str, snapshot: Callable[[], Snapshot | None]) -> None:
        self.base = base
        self._state_key = state_key
        self._snapshot = snapshot
        self._latest: tuple[int, Path] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Writes the index, then the checkpoint, then removes what the checkpoint does not name.

        Args:
            checkpoint: What to save.
            path: Where to.
            storage_options: For the base.

        Raises:
            CheckpointError: The file system refuses; the checkpoint that was there, and its index, are intact.
        """
        remote = "://" in str(path)
        callbacks = checkpoint.get("callbacks", {})
        snapshot = self._snapshot() if self._state_key in callbacks and not remote else None
        name = None
        if snapshot is not None:
            name = self._write(index_folder(path), snapshot, weights_digest(checkpoint.get("state_dict", {})))
            named = {**callbacks[self._state_key], GENERATION: name}
            checkpoint = {**checkpoint, "callbacks": {**callbacks, self._state_key: named}}
        self.base.save_checkpoint(checkpoint, path, storage_options)
        if not remote:
            keep_only(index_folder(path), name)

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint; its index is left to :func:`find_index`."""
        if map_location is None:  # every base has a default of its own
            return self.base.load_checkpoint(path, weights_only=weights_only)
        return self.base.load_checkpoint(path, map_location, weights_only)

    def remove_checkpoint(self, path: _PATH) -> None:
        """Removes a checkpoint, then its index."""
        self.base.remove_checkpoint(path)
        if "://" not in str(path):
            keep_only(index_folder(path), None)

    def teardown(self) -> None:
        """Ends what the base has begun."""
        self.base.teardown()

    def _write(self, folder: Path, snapshot: Snapshot, weights: str) -> str:
        same = self._latest[1] if self._latest and self._latest[0] == snapshot.revision else None
        name = write_generation(folder, snapshot, weights, same)
        self._latest = snapshot.revision, folder / name
        return name


def pair_checkpoints(strategy: Strategy, state_key: str, snapshot: Callable[[], Snapshot | None]) -> bool:
    """Lets every checkpoint that a strategy writes have its index beside it.

    Args:
        strategy: That of the trainer.
        state_key: As in :class:`PairedCheckpointIO`.
        snapshot: As there.

    Returns:
        Whether that is so. Where a strategy or plugin writes checkpoints in another way, a warning says that resumed
        runs encode their documents again.
    """
    unpair_checkpoints(strategy)
    obstacle = _obstacle(strategy)
    if obstacle is not None:
        rank_zero_warn(
            f"environment: checkpoints will hold no index, since {obstacle}; a resumed run encodes all documents again"
        )
        return False
    strategy.checkpoint_io = PairedCheckpointIO(strategy.checkpoint_io, state_key, snapshot)
    return True


def unpair_checkpoints(strategy: Strategy) -> None:
    """Undoes :func:`pair_checkpoints`; nothing happens where there is nothing to undo."""
    if isinstance(strategy.checkpoint_io, PairedCheckpointIO):
        strategy.checkpoint_io = strategy.checkpoint_io.base


def find_index(checkpoint: _PATH, state: Mapping[str, Any]) -> Generation | None:
    """The index that was saved with a checkpoint, checked as :func:`open_generation` does.

    Args:
        checkpoint: Path of the checkpoint, or of a link to it.
        state: The callback's state in it.

    Returns:
        None where the checkpoint was saved without one, or was moved without it while its corpus had not changed.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    name = state.get(GENERATION)
    if name is None:
        return None
    beside = index_folder(checkpoint)
    if not beside.is_dir() and not index_folder(Path(checkpoint).resolve()).is_dir() and not state.get("changed"):
        rank_zero_warn(
            f"environment: expected the index of {checkpoint} in {beside}; got no such folder; all documents are "
            "encoded again (copy the two together)"
        )
        return None
    return open_generation(beside if beside.is_dir() else index_folder(Path(checkpoint).resolve()), str(name))


def _obstacle(strategy: Strategy) -> str | None:
    """Why a strategy's checkpoints cannot be paired, if so."""
    if isinstance(strategy, DeepSpeedStrategy):
        return "DeepSpeed writes checkpoints by itself"
    if isinstance(strategy, FSDPStrategy) and strategy._state_dict_type == "sharded":  # noqa: SLF001
        return "`state_dict_type: sharded` writes checkpoints as folders (`full` does not)"
    if isinstance(strategy, ModelParallelStrategy) and strategy._save_distributed_checkpoint:  # noqa: SLF001
        return "`save_distributed_checkpoint: true` writes checkpoints as folders"
    if isinstance(strategy.checkpoint_io, AsyncCheckpointIO):
        return "AsyncCheckpointIO does not say when a checkpoint is complete"
    return None
