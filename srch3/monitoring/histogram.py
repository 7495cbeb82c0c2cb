"""How the rewards of a step are distributed, for loggers that draw histograms."""

from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from srch3.errors import ConfigError

NAME = "train/reward_histogram"


class RewardHistogram(L.Callback):
    """Draws the rewards of all completions of a step, every ``trainer.log_every_n_steps`` steps.

    Weights & Biases and TensorBoard get a histogram, of the first process' completions; for other loggers there are
    ``train/reward_p10`` and ``train/reward_p90``.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hands the rewards to the loggers.

        Raises:
            ConfigError: The model has none.
        """
        if not hasattr(pl_module, "last_rewards"):
            raise ConfigError(
                "trainer.callbacks: RewardHistogram expects a model with last_rewards, such as RLModule; got "
                f"{type(pl_module).__name__}; take it out"
            )
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not trainer.is_global_zero or interval == 0 or trainer.global_step % interval:
            return
        rewards: Any = pl_module.last_rewards
        step = trainer.global_step - 1
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb  # slow, and of no use to other loggers

                histogram: Any = wandb.Histogram(rewards.tolist())
                logger.log_metrics({NAME: histogram}, step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_histogram(NAME, rewards, step)
