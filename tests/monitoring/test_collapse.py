from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from srch3.errors import ConfigError, NumericError
from srch3.monitoring import CollapseGuard
from tests.programs import Line, NumberData
from tests.toy import quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]


class Reporting(Line):
    """Logs given figures, one step after the other."""

    def __init__(self, **figures: list[float]) -> None:
        super().__init__()
        self.figures = figures

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log_dict({f"train/{name}": values[self.global_step] for name, values in self.figures.items()})
        return super().training_step(batch, batch_idx)


def fit(
    root: Path, guard: CollapseGuard, steps: int | None = None, ckpt: str | None = None, **figures: Any
) -> L.Trainer:
    steps = steps or len(next(iter(figures.values())))
    saver = ModelCheckpoint(root / "kept", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = quiet_trainer(
        root, max_steps=steps, limit_val_batches=0, callbacks=[guard, saver], enable_checkpointing=True
    )
    trainer.fit(Reporting(**figures), NumberData(batch_size=1, count=30), ckpt_path=ckpt)
    return trainer


def stopped(root: Path, guard: CollapseGuard, **settings: Any) -> str:
    with pytest.raises(NumericError) as stop:
        fit(root, guard, **settings)
    return str(stop.value)


def test_so_many_bad_steps_in_a_row_stop_the_run(tmp_path: Path) -> None:
    emitted = [0.9, 0.9, 0.05, 0.9, 0.08, 0.05, 0.02, 0.01, 0.0, 0.9]
    message = stopped(tmp_path, CollapseGuard(patience=5), emitted=emitted)
    assert message == (
        "training has collapsed: train/emitted is below min_emitted 0.1 since step 4 (0.08, 0.05, 0.02, 0.01, 0): "
        "hardly a thought ends with the embed token; train stage 1 longer, raise reference_kl.weight or "
        "max_thought_tokens, or lower the learning rate; resume from the last good checkpoint with --ckpt_path "
        f"{tmp_path}/kept/step=3.ckpt"
    )
    assert len(list((tmp_path / "kept").iterdir())) == 8  # the ninth step, bad for the fifth time, was not saved


def test_a_good_step_begins_the_count_anew(tmp_path: Path) -> None:
    trainer = fit(tmp_path, CollapseGuard(patience=3), similarity=[0.99, 0.99, 0.5, 0.99, 0.99, 0.5, 0.99, 0.99])
    assert trainer.global_step == 8


@pytest.mark.parametrize(
    ("name", "bad", "fine", "argument", "off"),
    [
        ("similarity", 0.96, 0.95, "above max_similarity 0.95", 1.0),
        ("emitted", 0.09, 0.1, "below min_emitted 0.1", 0.0),
        ("reward_spread", 0.00009, 0.00011, "below min_reward_spread 0.0001", 0.0),
        ("entropy", 0.0009, 0.001, "below min_entropy 0.001", 0.0),
    ],
)
def test_each_figure_has_a_limit(name: str, bad: float, fine: float, argument: str, off: float, tmp_path: Path) -> None:
    message = stopped(tmp_path, CollapseGuard(patience=2), **{name: [fine, bad, bad, bad]})
    assert message.startswith(
        f"training has collapsed: train/{name} is {argument} since step 1 ({bad:.3g}, {bad:.3g}): "
    )
    assert fit(tmp_path, CollapseGuard(patience=2), **{name: [fine] * 4}).global_step == 4
    extreme = 1.0 if name == "similarity" else 0.0
    switched_off = CollapseGuard(patience=2, **{argument.split()[1]: off})
    assert fit(tmp_path, switched_off, **{name: [extreme] * 4}).global_step == 4


def test_figures_are_watched_apart(tmp_path: Path) -> None:
    alternating = {"emitted": [0.0, 0.9, 0.0, 0.9, 0.0], "entropy": [0.5, 0.0, 0.5, 0.0, 0.5]}
    assert fit(tmp_path, CollapseGuard(patience=2), **alternating).global_step == 5
    both = {"emitted": [0.9, 0.9, 0.9, 0.9], "entropy": [0.5, 0.0, 0.0, 0.0]}
    assert "train/entropy is below" in stopped(tmp_path, CollapseGuard(patience=3), **both)


def test_what_is_not_logged_is_not_watched(tmp_path: Path) -> None:
    assert fit(tmp_path, CollapseGuard(patience=1), steps=3, loss=[0.0, 0.0, 0.0]).global_step == 3


def test_a_long_course_is_told_in_five_numbers(tmp_path: Path) -> None:
    values = [0.9, *(0.09 - 0.01 * step for step in range(9))]
    message = stopped(tmp_path, CollapseGuard(patience=9), emitted=values)
    assert "since step 1 (0.09, 0.07, 0.05, 0.03, 0.01):" in message


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    emitted = [0.9, 0.9, 0.04, 0.03, 0.02, 0.01]
    assert fit(tmp_path, CollapseGuard(patience=4), steps=4, emitted=emitted).global_step == 4
    middle = str(tmp_path / "kept" / "step=4.ckpt")
    message = stopped(tmp_path, CollapseGuard(patience=4), steps=6, ckpt=middle, emitted=emitted)
    assert "since step 2 (0.04, 0.03, 0.02, 0.01):" in message
    assert message.endswith("step=1.ckpt")
    torch.load(middle, weights_only=True)


def test_patience_is_at_least_one() -> None:
    with pytest.raises(ConfigError, match=r"CollapseGuard\.patience: expected at least 1 step, got 0"):
        CollapseGuard(patience=0)
