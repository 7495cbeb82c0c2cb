"""Modules and data that are as small as the command line allows, named by class_path in its tests."""

import os
import signal
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from srch3.errors import DataError, NumericError
from srch3.types import Hits, Searches


class Line(L.LightningModule):
    """One weight that moves towards the mean of its data."""

    def __init__(self, lr: float = 0.1, weight_decay: float = 0.0, decays: bool = False, width: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "schedule"])
        self.lr, self.weight_decay, self.decays = lr, weight_decay, decays
        self.weight = nn.Parameter(torch.zeros(width))
        self.seen: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen += batch.tolist()
        return ((self.weight - batch[:, None]) ** 2).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/ndcg@10", self.weight.detach().sum())

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("test/weight", self.weight.detach().sum())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        if not self.decays:
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class SteeperLine(Line):
    """A class derived from the one that saved a checkpoint."""


class OtherStage(L.LightningModule):
    """Another stage than ``Line``."""


class NanLine(Line):
    """Fails as a model of ours does."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        raise NumericError("loss: expected a finite number;\ngot nan; lower the learning rate")


class BuggyLine(Line):
    """Fails as a user's own model may."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        raise ZeroDivisionError("a bug in a user's subclass")


class InterruptedLine(Line):
    """Somebody presses Ctrl-C once, as soon as three steps are done."""

    pressed = False

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.global_step == 3 and not self.pressed:
            self.pressed = True
            os.kill(os.getpid(), signal.SIGINT)
        return super().training_step(batch, batch_idx)


class ImpatientLine(Line):
    """Somebody presses Ctrl-C twice in its fourth step."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.global_step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return super().training_step(batch, batch_idx)


class Searcher(Line):
    """Predicts two searches per batch, with equal scores."""

    def predict_step(self, batch: Tensor, batch_idx: int) -> Searches:
        ids = [f"q{int(value)}" for value in batch.tolist()]
        scores = torch.tensor([[0.5, 0.5, 0.25]]).expand(len(ids), -1)
        hits = Hits(torch.arange(3).expand(len(ids), -1), scores)
        return Searches(ids, ["text"] * len(ids), ["thought"] * len(ids), hits, [["a", "b", "c"]] * len(ids))


class Numbers(Dataset[float]):
    """0, 1, 2, …"""

    def __init__(self, count: int, broken: bool) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> float:
        if self.broken:
            raise DataError("data.init_args.root: expected a folder; got nothing")
        return float(index)


class NumberData(L.LightningDataModule):
    """The numbers from 0, in order."""

    def __init__(self, count: int = 8, batch_size: int = 2, num_workers: int = 0, broken: bool = False) -> None:
        super().__init__()
        self.numbers, self.batch_size, self.num_workers = Numbers(count, broken), batch_size, num_workers

    def loader(self) -> DataLoader[float]:
        return DataLoader(self.numbers, batch_size=self.batch_size, num_workers=self.num_workers)

    def train_dataloader(self) -> DataLoader[float]:
        return self.loader()

    def val_dataloader(self) -> DataLoader[float]:
        return self.loader()

    def test_dataloader(self) -> DataLoader[float]:
        return self.loader()

    def predict_dataloader(self) -> DataLoader[float]:
        return self.loader()
