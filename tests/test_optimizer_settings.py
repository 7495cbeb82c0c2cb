from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from srch3.optimizer_settings import AskedOptimizerSettings
from tests.programs import Line, NumberData

Schedule = Callable[[Optimizer], Any]


class Scheduled(Line):
    """A line with any optimizer and schedule."""

    def __init__(self, optimizer: Callable[..., Optimizer], schedule: Schedule | None = None, groups: int = 1) -> None:
        super().__init__()
        self.make, self.schedule, self.groups = optimizer, schedule, groups
        self.other = torch.nn.Parameter(torch.zeros(1))

    def configure_optimizers(self) -> Any:
        both = [{"params": [self.weight]}, {"params": [self.other], "weight_decay": 0.0}]
        optimizer = self.make(both if self.groups == 2 else [self.weight])
        if self.schedule is None:
            return optimizer
        schedule = {"scheduler": self.schedule(optimizer), "interval": "step", "monitor": "val/ndcg@10"}
        schedule["frequency"] = 1000 if isinstance(schedule["scheduler"], ReduceLROnPlateau) else 1
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def trained(model: L.LightningModule, root: Path, epochs: int, ckpt_path: Path | None = None) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=root,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[AskedOptimizerSettings()],
    )
    trainer.fit(model, datamodule=NumberData(), ckpt_path=ckpt_path)
    return trainer


@pytest.fixture
def resumed(tmp_path: Path) -> Callable[..., L.Trainer]:
    """Trains for one epoch of four steps, then resumes another model from it, for no step at all."""

    def run(first: L.LightningModule, second: L.LightningModule, steps: int = 0) -> L.Trainer:
        path = tmp_path / "last.ckpt"
        trained(first, tmp_path, epochs=1).save_checkpoint(path, weights_only=False)
        return trained(second, tmp_path, epochs=1 + steps, ckpt_path=path)

    return run


def sgd(**settings: Any) -> Callable[..., Optimizer]:
    return lambda groups: SGD(groups, **settings)


def test_what_was_asked_replaces_what_was_restored(
    resumed: Callable[..., L.Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        trainer = resumed(
            Scheduled(lambda groups: AdamW(groups, lr=0.5, weight_decay=0.1)),
            Scheduled(lambda groups: AdamW(groups, lr=0.25, weight_decay=0.2, betas=(0.8, 0.9))),
            steps=1,
        )
    group = trainer.optimizers[0].param_groups[0]
    assert (group["lr"], group["weight_decay"], tuple(group["betas"])) == (0.25, 0.2, (0.8, 0.9))
    [line] = [record.getMessage() for record in caplog.records if "resumed" in record.getMessage()]
    assert line == (
        "resumed with other settings than the checkpoint's: "
        "lr 0.5 -> 0.25; betas (0.9, 0.999) -> (0.8, 0.9); weight_decay 0.1 -> 0.2"
    )


def test_nothing_is_said_where_nothing_differs(
    resumed: Callable[..., L.Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    def halving(optimizer: Optimizer) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: 0.5**step)

    with caplog.at_level("INFO"):
        trainer = resumed(Scheduled(sgd(lr=0.5), halving), Scheduled(sgd(lr=0.5), halving), steps=1)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5**9, abs=1e-12)
    assert not [record for record in caplog.records if "resumed with" in record.getMessage()]


def test_groups_keep_their_own_settings(resumed: Callable[..., L.Trainer]) -> None:
    trainer = resumed(
        Scheduled(sgd(lr=0.5, weight_decay=0.1), groups=2), Scheduled(sgd(lr=0.25, weight_decay=0.2), groups=2), steps=1
    )
    groups = trainer.optimizers[0].param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.25, 0.2), (0.25, 0.0)]


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: LambdaLR(optimizer, lambda step: 0.9**step),
        lambda optimizer: LinearLR(optimizer, 1.0, 0.1, total_iters=20),
        lambda optimizer: CosineAnnealingLR(optimizer, T_max=20),
        lambda optimizer: SequentialLR(
            optimizer, [LinearLR(optimizer, 0.1, total_iters=6), CosineAnnealingLR(optimizer, 20)], milestones=[6]
        ),
        lambda optimizer: ChainedScheduler(
            [LinearLR(optimizer, 0.5, total_iters=6), LambdaLR(optimizer, lambda step: 0.9**step)], optimizer=optimizer
        ),
    ],
    ids=["lambda", "linear", "cosine", "sequential", "chained"],
)
def test_a_schedule_goes_on_from_its_factor_with_the_base_asked_for(
    resumed: Callable[..., L.Trainer], tmp_path: Path, schedule: Schedule
) -> None:
    trainer = resumed(Scheduled(sgd(lr=0.5), schedule), Scheduled(sgd(lr=0.25), schedule), steps=1)
    whole = trained(Scheduled(sgd(lr=0.25), schedule), tmp_path, epochs=2)
    rate = whole.optimizers[0].param_groups[0]["lr"]
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(rate, abs=1e-9)
    assert trainer.lr_scheduler_configs[0].scheduler.get_last_lr() == pytest.approx([rate], abs=1e-9)


def test_a_rate_of_zero_in_the_checkpoint_gives_way(resumed: Callable[..., L.Trainer]) -> None:
    trainer = resumed(Scheduled(sgd(lr=0.0)), Scheduled(sgd(lr=0.25)), steps=1)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.25


def test_a_schedule_on_a_plateau_is_moved_too(resumed: Callable[..., L.Trainer]) -> None:
    plateau: Schedule = ReduceLROnPlateau
    trainer = resumed(Scheduled(sgd(lr=0.5), plateau), Scheduled(sgd(lr=0.25), plateau), steps=1)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.25


def test_a_momentum_that_its_schedule_drives_is_left_to_it(resumed: Callable[..., L.Trainer], tmp_path: Path) -> None:
    def cycle(optimizer: Optimizer) -> OneCycleLR:
        return OneCycleLR(optimizer, max_lr=0.1, total_steps=20)

    make = sgd(lr=0.1, momentum=0.9)
    trainer = resumed(Scheduled(make, cycle), Scheduled(make, cycle), steps=1)
    whole = trained(Scheduled(make, cycle), tmp_path, epochs=2)
    assert trainer.optimizers[0].param_groups[0]["momentum"] == whole.optimizers[0].param_groups[0]["momentum"]


def test_settings_of_the_schedule_itself_stay_and_are_named(
    resumed: Callable[..., L.Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        resumed(
            Scheduled(sgd(lr=0.5), lambda optimizer: CosineAnnealingLR(optimizer, T_max=20)),
            Scheduled(sgd(lr=0.5), lambda optimizer: CosineAnnealingLR(optimizer, T_max=40)),
            steps=1,
        )
    assert "schedule keeps T_max 20 (asked 40)" in caplog.text


def test_a_run_from_the_beginning_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        trained(Scheduled(sgd(lr=0.5)), tmp_path, epochs=1)
    assert "resumed" not in caplog.text
