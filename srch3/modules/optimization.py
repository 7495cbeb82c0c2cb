"""What every stage shares before any retrieval: optimizer, schedule, repeatable randomness, finite losses."""

import math
import warnings
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import Metric
from transformers import get_scheduler

from srch3.errors import ConfigError, NumericError
from srch3.losses import BaseLoss
from srch3.modules.recovery import way_back

Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine"]


class OptimizedModule(L.LightningModule):
    """A LightningModule whose steps depend on nothing but the seed, the step and the weights.

    Randomness is seeded anew for each batch from (seed, batches before it, rank), so a resumed run draws what the
    uninterrupted one would have drawn. A loss that is not finite stops the run and names its terms.

    Args:
        optimizer: Made from the parameters, e.g. ``class_path: torch.optim.AdamW``.
        schedule: Course of the learning rate after the warm-up, one of those of ``transformers.get_scheduler``.
        warmup: Share of all steps over which the learning rate rises from zero.
        embedding_lr_scale: Factor of the learning rate of the token embeddings; more than 1 helps small models that
            know few words yet.
        seed: Seed of everything random within a step.
    """

    def __init__(
        self, optimizer: OptimizerCallable, schedule: Schedule, warmup: float, embedding_lr_scale: float, seed: int
    ) -> None:
        super().__init__()
        if not embedding_lr_scale > 0:
            raise ConfigError(
                f"model.init_args.embedding_lr_scale: expected a factor above 0, got {embedding_lr_scale}"
            )
        if not 0 <= warmup < 1:
            raise ConfigError(f"model.init_args.warmup: expected a share of all steps in [0, 1), got {warmup}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attribute .* is an instance of `nn.Module`")
            self.save_hyperparameters()
        self._forget_live_objects()
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.warmup = warmup
        self.embedding_lr_scale = embedding_lr_scale
        self.seed = seed

    def _forget_live_objects(self) -> None:
        """Leaves recipes alone in the hyper-parameters: a checkpoint with objects would not load safely."""
        for hparams in (self.hparams, vars(self)["_hparams_initial"]):
            for name in [name for name, value in hparams.items() if not _is_plain(value)]:
                del hparams[name]

    @property
    def finished_batches(self) -> int:
        """Training batches that are over, in all epochs and across resumes."""
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # type: ignore[attr-defined]

    @property
    def step_seed(self) -> int:
        """The seed of the present training batch on this rank."""
        return hash((self.seed, self.finished_batches, self.global_rank)) % 2**63

    def term_weights(self, *losses: BaseLoss) -> dict[str, float]:
        """The present factor of each loss, by the argument that takes it.

        Raises:
            ConfigError: A factor changes over a training that has no end.
        """
        progress = self._progress() if any(loss.changes for loss in losses) else 0.0
        return {loss.argument: loss.weight_at(progress) for loss in losses}

    def _progress(self) -> float:
        """Share of the optimizer steps that are over."""
        return self.trainer.global_step / self._steps("a loss' final_weight")

    def _steps(self, setting: str) -> float:
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ConfigError(
                f"model.init_args: {setting} needs an end of training; set trainer.max_steps or trainer.max_epochs"
            )
        return steps

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds dropout and whatever else draws from the global generators."""
        torch.manual_seed(self.step_seed)

    def on_validation_epoch_start(self) -> None:
        """Metrics begin anew. Those that ``validate`` resets itself, under inference mode, no ``fit`` could update."""
        with torch.inference_mode(False):
            for module in self.modules():
                if isinstance(module, Metric):
                    module.reset()

    def on_test_epoch_start(self) -> None:
        """The same as for validation."""
        self.on_validation_epoch_start()

    def check_finite(self, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Stops the run at a loss that is not a number.

        Raises:
            NumericError: Names each term with its value, and the last good checkpoint.
        """
        if torch.isfinite(loss):
            return
        parts = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        raise NumericError(
            f"the training loss became {loss.item()} at step {self.global_step} ({parts}; learning rate {lr:.3g}): "
            "lower the learning rate, set trainer.gradient_clip_val, raise the temperature, or use a wider dtype; "
            f"{way_back(self.trainer, self.trainer.global_step)}"
        )

    def configure_optimizers(self) -> Any:
        """The optimizer over all trainable parameters, with the schedule counted in optimizer steps."""
        try:
            optimizer = self.make_optimizer(self._parameters_to_optimize())
        except ValueError as error:
            raise ConfigError(f"model.init_args.optimizer: {error}") from error
        for group in optimizer.param_groups[1:]:
            group["lr"] *= self.embedding_lr_scale
        if self.schedule == "constant" and self.warmup == 0:
            return optimizer
        steps = self._steps(f"schedule {self.schedule!r}")
        scheduler = get_scheduler(self.schedule, optimizer, int(self.warmup * steps), int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def token_embeddings(self) -> Tensor | None:
        """The matrix that ``embedding_lr_scale`` is about, if the module has one."""
        return None

    def _parameters_to_optimize(self) -> list[Any]:
        """All trainable parameters; in two groups where the token embeddings have a rate of their own."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        special = self.token_embeddings()
        if self.embedding_lr_scale == 1 or special is None or not special.requires_grad:
            return trainable
        return [{"params": [p for p in trainable if p is not special]}, {"params": [special]}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Marks the stage."""
        checkpoint["srch3"] = {"stage": type(self).__name__, "format": 1}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(item) for item in (*value.keys(), *value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | Tensor)
