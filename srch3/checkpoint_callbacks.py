"""The checkpoints that a run keeps: the best, and the last, which Ctrl-C writes too."""

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import STEP_OUTPUT


class BestCheckpoint(ModelCheckpoint):
    """Keeps the model that does best on the validation queries, as ``best.ckpt``.

    Args:
        monitor: The logged metric that decides.
        mode: Whether more (``max``) or less (``min``) of it is better.
        dirpath: Folder; by default ``checkpoints`` in the run's own folder.
        filename: Name without extension; may hold fields such as ``{step}``.
        save_top_k: How many to keep.
    """

    def __init__(
        self,
        monitor: str = "val/ndcg@10",
        mode: Literal["min", "max"] = "max",
        dirpath: str | None = None,
        filename: str = "best",
        save_top_k: int = 1,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            auto_insert_metric_name=False,
            enable_version_counter=save_top_k != 1,
        )

    @property
    def lacks_validation(self) -> bool:
        """Whether there is nothing to keep, since its metric has not been measured."""
        return self.save_top_k != 0 and not self.best_model_path

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers, in a resumed run, what was best so far, although it lies in another run's folder.

        Args:
            state_dict: This callback's state in the checkpoint.
        """
        best = Path(state_dict.get("best_model_path", ""))
        super().load_state_dict({**state_dict, "dirpath": self.dirpath} if best.is_file() else state_dict)


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``, from which a killed or interrupted run resumes.

    It is written every so many minutes or optimizer steps, at the end of each epoch and of the run, and when Ctrl-C is
    pressed: the run then finishes its current step, saves, and stops. A second Ctrl-C stops at once.

    Args:
        every_n_train_steps: Optimizer steps between two writes; 0 leaves it to ``every_n_minutes``.
        every_n_minutes: Minutes between two writes; 0 leaves it to ``every_n_train_steps``.
        dirpath: Folder; by default ``checkpoints`` in the run's own folder.
    """

    def __init__(self, every_n_train_steps: int = 0, every_n_minutes: float = 5.0, dirpath: str | None = None) -> None:
        super().__init__(dirpath=dirpath, filename=self.CHECKPOINT_NAME_LAST, save_top_k=0, save_last=True)
        self.interval_steps = every_n_train_steps
        self.interval_seconds = 60 * every_n_minutes
        self.stop_asked = False
        self._seen_step = 0
        self._saved_step = -1
        self._saved_time = 0.0
        self._previous_handler: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock and listens for Ctrl-C."""
        self._seen_step = self._saved_step = trainer.global_step
        self._saved_time = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGINT, self._ask_to_stop)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Saves after an optimizer step, when it is time to or the run is about to stop."""
        if trainer.global_step == self._seen_step:  # in the midst of accumulating gradients, which no checkpoint holds
            return
        self._seen_step = trainer.global_step
        stop = trainer.strategy.reduce_boolean_decision(self.stop_asked, all=False)
        if stop or trainer.strategy.broadcast(self._is_due(trainer)):
            self._save(trainer)
        if stop:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves at the end of an epoch, unless the run stops in mid-epoch and has just saved there."""
        ended = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if ended or trainer.global_step != self._saved_step:
            self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Does nothing: what is saved in training steps already covers it."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Does nothing: the end of the last epoch has just been saved."""

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Hands Ctrl-C back."""
        self._hand_back()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Hands Ctrl-C back; saves nothing, since a step that failed half-way is no state to resume from."""
        self._hand_back()

    def _is_due(self, trainer: L.Trainer) -> bool:
        by_step = self.interval_steps > 0 and trainer.global_step % self.interval_steps == 0
        by_time = 0 < self.interval_seconds <= time.monotonic() - self._saved_time
        return by_step or by_time or trainer.global_step == trainer.max_steps

    def _save(self, trainer: L.Trainer) -> None:
        assert self.dirpath is not None
        self.last_model_path = str(Path(self.dirpath) / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}")
        trainer.save_checkpoint(self.last_model_path, weights_only=False)
        self._saved_step, self._saved_time = trainer.global_step, time.monotonic()

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop_asked = True
        self._hand_back()
        rank_zero_info("Ctrl-C: finishing this step, then saving last.ckpt; press it again to stop at once")

    def _hand_back(self) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None
