"""Our side: stage 1 in direct mode with InfoNCE alone."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from experiments.benchmarks.sft.clock import Clock
from experiments.benchmarks.sft.prepare import backbone, data_module
from experiments.benchmarks.sft.settings import Task
from srch3.losses import InfoNCE, TripletMargin
from srch3.modules import SFTModule


class _Watch(L.Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SFTModule)
        self.clock.begin(pl_module.backbone.causal_lm)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.clock.note(trainer.callback_metrics["train/loss"])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clock.end()


def train(task: Task) -> tuple[Clock, SFTModule]:
    """Trains as `python -m srch3 fit` does, without validation, logger and checkpoints."""
    setup, order = task.setup, task.line.order
    module = SFTModule(
        backbone(setup),
        optimizer=partial(torch.optim.AdamW, lr=setup.lr, weight_decay=0.0, fused=True),
        schedule="linear",
        warmup=0.0,
        train_modes=["direct"],
        info_nce=InfoNCE(temperature=setup.temperature),
        triplet_margin=TripletMargin(weight=0.0),
        cache_tokens=task.line.cache,
        modes=["direct"],
        seed=setup.seed,
    )
    module.configure_model()
    clock = Clock(module.backbone.pad_id)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=order.steps,
        gradient_clip_val=setup.max_grad_norm,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[_Watch(clock)],
        default_root_dir=Path(setup.folder),
    )
    trainer.fit(module, datamodule=data_module(setup, order))
    return clock, module


def embed(module: SFTModule, queries: list[str], documents: list[str]) -> tuple[Tensor, Tensor]:
    """Embeddings of the held-out texts."""
    return module.embed_queries(queries, ["direct"])["direct"].embeddings, module.encode_documents(documents)
