"""What training takes without evaluation, so that others can be given as much."""

import time
from typing import Any

import lightning as L


class TrainingTime(L.Callback):
    """Logs ``train/seconds`` when training ends: what it took, with its data and index, without evaluation.

    On a CPU it is the time that this process was at work, so that others beside it change little.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._since = _now(pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Reads it, for a checkpoint that may follow."""
        self._count(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the sum."""
        self._count(pl_module)
        for logger in trainer.loggers:
            logger.log_metrics({"train/seconds": self.seconds}, step=trainer.global_step - 1)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops it."""
        self._count(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts it again."""
        self._since = _now(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self.seconds = state_dict["seconds"]

    def _count(self, pl_module: L.LightningModule) -> None:
        now = _now(pl_module)
        self.seconds += now - self._since
        self._since = now


def _now(pl_module: L.LightningModule) -> float:
    return time.process_time() if pl_module.device.type == "cpu" else time.perf_counter()
