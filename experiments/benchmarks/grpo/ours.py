"""Our side: stage 2 with its policy gradient alone, on an index of a few documents that is searched for one hit."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from experiments.benchmarks.grpo.prepare import backbone, data_module
from experiments.benchmarks.grpo.reward import share_of_vowels
from experiments.benchmarks.grpo.settings import Task
from experiments.benchmarks.sft.clock import Clock
from srch3.environments import NoRefresh, SearchEnvironment
from srch3.losses import InfoNCE, PolicyLoss, ReferenceKL
from srch3.modules import RLModule
from srch3.rewards import BaseReward
from srch3.types import Outcome


class Vowels(BaseReward):
    """The reward of both sides."""

    k = 0

    def judge(self, outcome: Outcome) -> Tensor:
        """The reward of each completion."""
        return torch.tensor(share_of_vowels(outcome.thoughts), device=outcome.emitted.device)


class _Watch(L.Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lengths: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, RLModule)
        self.clock.begin(pl_module.backbone.causal_lm)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.clock.note(trainer.callback_metrics["train/loss"])
        self.lengths.append(float(trainer.callback_metrics["train/thought_tokens"]))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clock.end()


def train(task: Task) -> dict[str, Any]:
    """Trains as `python -m srch3 fit` does, without validation, logger and checkpoints.

    Args:
        task: What to measure.

    Returns:
        What `Clock` noted, and the mean length of the completions of each step.
    """
    setup, shape = task.setup, task.line.shape
    module = RLModule(
        backbone(setup),
        optimizer=partial(torch.optim.AdamW, lr=setup.lr, weight_decay=0.0, fused=True),
        reward=Vowels(),
        samples=setup.samples,
        policy_loss=PolicyLoss(normaliser="dapo"),
        reference_kl=ReferenceKL(weight=shape.kl_weight),
        info_nce=InfoNCE(weight=0.0),
        cache_tokens=task.line.at_once,
        seed=setup.seed,
    )
    module.configure_model()
    watch = _Watch(Clock(module.backbone.pad_id))
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=setup.steps,
        gradient_clip_val=setup.max_grad_norm,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[SearchEnvironment(refresh=NoRefresh()), watch],
        default_root_dir=Path(setup.folder),
    )
    trainer.fit(module, datamodule=data_module(setup, shape))
    return watch.clock.figures() | {"lengths": watch.lengths}
