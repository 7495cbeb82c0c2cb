"""What every stage shares before any retrieval: optimizer, schedule, repeatable randomness, finite losses."""

import math
import warnings
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from transformers import get_scheduler

from srch3.errors import ConfigError, NumericError

Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine"]


class OptimizedModule(L.LightningModule):
    """A LightningModule whose steps depend on nothing but the seed, the step and the weights.

    Randomness is seeded anew for each batch from (seed, epoch, batch, rank), so a resumed run draws what the
    uninterrupted one would have drawn. A loss that is not finite stops the run and names its terms.

    Args:
        optimizer: Made from the parameters, e.g. ``class_path: torch.optim.AdamW``.
        schedule: Course of the learning rate after the warm-up, one of those of ``transformers.get_scheduler``.
        warmup: Share of all steps over which the learning rate rises from zero.
        seed: Seed of everything random within a step.
    """

    def __init__(self, optimizer: OptimizerCallable, schedule: Schedule, warmup: float, seed: int) -> None:
        super().__init__()
        if not 0 <= warmup < 1:
            raise ConfigError(f"model.init_args.warmup: expected a share of all steps in [0, 1), got {warmup}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attribute .* is an instance of `nn.Module`")
            self.save_hyperparameters()
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.warmup = warmup
        self.seed = seed

    def step_seed(self, batch_idx: int) -> int:
        """The seed of one batch on one rank."""
        return hash((self.seed, self.current_epoch, batch_idx, self.global_rank)) % 2**63

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds dropout and whatever else draws from the global generators."""
        torch.manual_seed(self.step_seed(batch_idx))

    def check_finite(self, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Stops the run at a loss that is not a number.

        Raises:
            NumericError: Names each term with its value.
        """
        if torch.isfinite(loss):
            return
        parts = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        raise NumericError(
            f"the training loss became {loss.item()} at step {self.global_step} ({parts}; learning rate {lr:.3g}): "
            "lower the learning rate, set trainer.gradient_clip_val, raise the temperature, or use a wider dtype"
        )

    def configure_optimizers(self) -> Any:
        """The optimizer over all trainable parameters, with the schedule counted in optimizer steps."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = self.make_optimizer(parameters)
        if self.schedule == "constant" and self.warmup == 0:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ConfigError(
                f"model.init_args.schedule: {self.schedule!r} needs an end; set trainer.max_steps or trainer.max_epochs"
            )
        scheduler = get_scheduler(self.schedule, optimizer, int(self.warmup * steps), int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Marks the stage, and keeps out of the file whatever a safe loader would refuse."""
        checkpoint["srch3"] = {"stage": type(self).__name__, "format": 1}
        hparams = checkpoint.get("hyper_parameters", {})
        checkpoint["hyper_parameters"] = {name: value for name, value in hparams.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(item) for item in (*value.keys(), *value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | Tensor)
