"""Where a run keeps the configuration that it was started with."""

from pathlib import Path

import lightning as L
import yaml
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger


class SaveRunConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's own folder and hands the same nested settings to every logger."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Saves the configuration; called on one process only.

        Args:
            trainer: Its loggers say where the run's folder is.
            pl_module: Not used.
            stage: Not used.
        """
        folder = run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        self.parser.save(
            self.config, str(folder / self.config_filename), skip_none=False, overwrite=True, multifile=False
        )
        settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        for logger in trainer.loggers:
            logger.log_hyperparams(settings)


def run_folder(trainer: L.Trainer) -> Path:
    """Folder of a run: where its checkpoints lie by default too, in ``checkpoints``."""
    if trainer.loggers:
        return _folder_of(trainer.loggers[0], trainer.default_root_dir)
    return Path(trainer.default_root_dir)


def _folder_of(logger: Logger, fallback: str) -> Path:
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or fallback) / str(logger.name) / version
