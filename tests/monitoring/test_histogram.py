from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from srch3.errors import ConfigError
from srch3.monitoring import RewardHistogram
from tests.programs import Line, NumberData
from tests.toy import quiet_trainer


class Rewarded(Line):
    """Has the rewards of its last step."""

    last_rewards: Tensor | None = None

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.last_rewards = torch.arange(4.0) + self.global_step
        return super().training_step(batch, batch_idx)


class Board(TensorBoardLogger):
    """Keeps what would be drawn; writes nothing."""

    def __init__(self) -> None:
        self.drawn: list[Any] = []

    @property
    def experiment(self) -> Any:
        return self

    def add_histogram(self, *drawn: Any) -> None:
        self.drawn.append(drawn)

    def log_metrics(self, *_: Any, **__: Any) -> None:
        pass

    save = finalize = log_hyperparams = log_graph = log_metrics
    version = name = save_dir = root_dir = log_dir = None  # type: ignore[assignment]


def fit(root: Path, logger: Any, model: Line | None = None, interval: int = 2) -> None:
    trainer = quiet_trainer(
        root,
        max_steps=5,
        limit_val_batches=0,
        logger=logger,
        log_every_n_steps=interval,
        callbacks=[RewardHistogram()],
    )
    trainer.fit(model or Rewarded(), NumberData(count=5, batch_size=1))


def test_tensorboard_gets_a_histogram_when_it_logs(tmp_path: Path) -> None:
    board = Board()
    fit(tmp_path, board)
    assert [(name, rewards.tolist(), step) for name, rewards, step in board.drawn] == [
        ("train/reward_histogram", [1.0, 2.0, 3.0, 4.0], 1),
        ("train/reward_histogram", [3.0, 4.0, 5.0, 6.0], 3),
    ]


def test_weights_and_biases_gets_a_histogram_offline(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    logger = WandbLogger(offline=True, project="p", save_dir=tmp_path)
    fit(tmp_path, logger)
    summary = dict(logger.experiment.summary)
    wandb.finish()
    drawn = summary["train/reward_histogram"]
    counts, edges = np.histogram([3.0, 4.0, 5.0, 6.0], bins=len(drawn["values"]))
    assert list(drawn["values"]) == counts.tolist()
    assert list(drawn["bins"]) == pytest.approx(edges.tolist())
    assert summary["trainer/global_step"] == 3


def test_other_loggers_get_none(tmp_path: Path) -> None:
    fit(tmp_path, CSVLogger(tmp_path))
    assert not list(tmp_path.rglob("*.wandb"))


def test_nothing_is_drawn_where_nothing_is_logged(tmp_path: Path) -> None:
    board = Board()
    fit(tmp_path, board, interval=0)
    assert board.drawn == []


def test_a_model_without_rewards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"RewardHistogram expects a model with last_rewards, .* got Line; take it out"
    ):
        fit(tmp_path, False, Line())
