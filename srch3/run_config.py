"""A run's own folder: its configuration, and what the user is told about it."""

from pathlib import Path

import lightning as L
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from srch3.checkpoint_callbacks import BestCheckpoint


class SaveRunConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's own folder and hands the same nested settings to every logger.

    Names that folder when a run begins, and when training is over its checkpoints too.
    """

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Saves the configuration; called on one process only.

        Args:
            trainer: Its loggers say where the run's folder is.
            pl_module: Not used.
            stage: Not used.
        """
        folder = run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        rank_zero_info(f"this run's folder: {folder}")
        self.parser.save(
            self.config, str(folder / self.config_filename), skip_none=False, overwrite=True, multifile=False
        )
        settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        for logger in trainer.loggers:
            logger.log_hyperparams(settings)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Names the checkpoints, and says why there is no best one where no validation ran."""
        if not trainer.is_global_zero:
            return
        keepers = [keeper for keeper in trainer.checkpoint_callbacks if isinstance(keeper, ModelCheckpoint)]
        paths = [path for keeper in keepers for path in (keeper.best_model_path, keeper.last_model_path) if path]
        written = f"checkpoints: {', '.join(dict.fromkeys(paths))}" if paths else "no checkpoint was written"
        absent = [keeper for keeper in keepers if isinstance(keeper, BestCheckpoint) and keeper.lacks_validation]
        reason = "".join(f"; no {keeper.filename}.ckpt, since no validation ran" for keeper in absent)
        rank_zero_info(f"fit is done, in {run_folder(trainer)}; {written}{reason}")


def run_folder(trainer: L.Trainer) -> Path:
    """Folder of a run: where its checkpoints lie by default too, in ``checkpoints``."""
    if trainer.loggers:
        return _folder_of(trainer.loggers[0], trainer.default_root_dir)
    return Path(trainer.default_root_dir)


def _folder_of(logger: Logger, fallback: str) -> Path:
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or fallback) / str(logger.name) / version
