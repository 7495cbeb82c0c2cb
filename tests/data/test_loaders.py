import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from srch3.data import Corpus, RetrievalDataModule, ThoughtSource
from srch3.types import Query, QueryBatch, Split, TrainBatch

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]

Fit = Callable[..., list[list[str]]]


class Numbered(RetrievalDataModule):
    """33 training queries: 8 batches of 4 per epoch, one query left over."""

    def load(self, split: Split) -> list[Query]:
        return [Query(f"{split}{n}", f"{split} {n}", {f"d{n}": 1}) for n in range(33 if split == "train" else 3)]

    def load_corpus(self, split: Split) -> Corpus:
        return Corpus([f"d{n}" for n in range(33)], [f"text {n % 11}" for n in range(33)])


class Wide(Numbered):
    """Queries of different lengths with three relevant documents and four hard negatives."""

    def load(self, split: Split) -> list[Query]:
        return [
            Query(
                query.id,
                query.text + "!" * (7 * number % 10),
                {f"d{(number + step) % 33}": 1 for step in (0, 1, 2)},
                tuple(f"d{(number + step) % 33}" for step in (3, 4, 5, 6)),
                f"thought {number}",
                number / 2,
            )
            for number, query in enumerate(super().load(split))
        ]


class Recorder(L.LightningModule):
    """Notes the queries of each finished step."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[str]] = []
        self.stop_at = stop_at

    def training_step(self, batch: TrainBatch, batch_idx: int) -> torch.Tensor:
        if self.global_step == self.stop_at:
            raise RuntimeError("stopped")
        self.seen.append(batch.ids)
        return self.weight.sum()

    def validation_step(self, batch: QueryBatch, batch_idx: int) -> None:
        self.log("loss", float(len(batch.ids)), batch_size=len(batch.ids))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit_with(
    folder: Path, module: Recorder, callbacks: tuple[Callback, ...] = (), ckpt_path: Path | None = None, **limits: Any
) -> list[list[str]]:
    data = limits.pop("data", None) or Numbered(batch_size=4, num_workers=limits.pop("num_workers", 0))
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        callbacks=list(callbacks),
        default_root_dir=folder,
        **limits,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module.seen


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    return partial(fit_with, tmp_path)


def saver(folder: Path, **when: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", save_top_k=-1, **when)


@pytest.mark.parametrize(
    ("step", "limits"),
    [
        (5, {"max_epochs": 3}),
        (8, {"max_epochs": 3}),
        (13, {"max_epochs": 3}),
        (13, {"max_steps": 20}),
        (16, {"max_steps": 20, "limit_val_batches": 0}),
        (13, {"max_epochs": 3, "num_workers": 2}),
        (8, {"max_epochs": 3, "limit_train_batches": 4}),
        (3, {"max_epochs": 2, "accumulate_grad_batches": 2}),
    ],
)
def test_a_resumed_run_sees_exactly_the_remaining_batches(
    tmp_path: Path, fit: Fit, step: int, limits: dict[str, Any]
) -> None:
    whole = fit(Recorder(), (saver(tmp_path, every_n_train_steps=1),), **limits)
    rest = fit(Recorder(), ckpt_path=tmp_path / f"step={step}.ckpt", **limits)
    done = step * limits.get("accumulate_grad_batches", 1)
    assert len(rest) == len(whole) - done
    assert rest == whole[done:]


class Keeper(Recorder):
    """Notes whole batches."""

    def training_step(self, batch: TrainBatch, batch_idx: int) -> torch.Tensor:
        self.batches = [*getattr(self, "batches", []), batch]
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
def test_a_run_resumed_in_mid_epoch_with_other_workers_sees_the_same_batches(
    tmp_path: Path, fit: Fit, before: int, after: int
) -> None:
    def wide(workers: int) -> Wide:
        settings: dict[str, Any] = {"positives": 2, "negatives": 3, "bucket_batches": 3}
        return Wide(batch_size=4, num_workers=workers, **settings)

    whole, rest = Keeper(), Keeper()
    fit(whole, (saver(tmp_path, every_n_train_steps=1),), max_epochs=3, data=wide(before))
    fit(rest, ckpt_path=tmp_path / "step=11.ckpt", max_epochs=3, data=wide(after))
    assert rest.batches == whole.batches[11:]
    assert len(rest.batches) == 13
    assert all(len(names) == 2 for batch in whole.batches for names in batch.positive_ids)
    assert all(len(names) == 3 for batch in whole.batches for names in batch.negative_ids)


def test_the_thought_is_given_for_the_first_of_the_positives() -> None:
    class Shown(ThoughtSource):
        def __call__(self, query: Query, positive_text: str) -> str:
            return f"{query.id} {positive_text}"

    batch = next(iter(Wide(batch_size=4, positives=2, thoughts=Shown()).train_dataloader()))
    assert batch.thoughts == [f"{name} {texts[0]}" for name, texts in zip(batch.ids, batch.positives, strict=True)]
    assert batch.weights == [int(name.removeprefix("train")) / 2 for name in batch.ids]


@pytest.mark.parametrize(
    "when",
    [{"monitor": "loss"}, {"save_on_train_epoch_end": True, "every_n_epochs": 1}],
    ids=["after validation", "at the end of an epoch"],
)
@pytest.mark.parametrize("limits", [{"max_epochs": 3}, {"max_steps": 20}])
def test_a_run_resumes_at_the_end_of_an_epoch(
    tmp_path: Path, fit: Fit, when: dict[str, Any], limits: dict[str, Any]
) -> None:
    whole = fit(Recorder(), (saver(tmp_path, **when),), **limits)
    assert fit(Recorder(), ckpt_path=tmp_path / "step=8.ckpt", **limits) == whole[8:]


def test_an_interrupted_step_is_repeated(tmp_path: Path, fit: Fit) -> None:
    whole = fit(Recorder(), max_epochs=2)
    first, second = Recorder(stop_at=5), Recorder(stop_at=11)
    with pytest.raises(RuntimeError, match="stopped"):
        fit(first, (saver(tmp_path / "1", save_on_exception=True),), max_epochs=2)
    with pytest.raises(RuntimeError, match="stopped"):
        fit(second, (saver(tmp_path / "2", save_on_exception=True),), newest(tmp_path / "1"), max_epochs=2)
    third = fit(Recorder(), ckpt_path=newest(tmp_path / "2"), max_epochs=2)
    assert first.seen + second.seen + third == whole


def newest(folder: Path) -> Path:
    return max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)


def test_fitting_on_goes_on_in_the_order(tmp_path: Path, fit: Fit) -> None:
    whole = fit(Recorder(), max_epochs=2)
    module = Recorder()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, max_epochs=1, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, datamodule=Numbered(batch_size=4))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, datamodule=Numbered(batch_size=4))
    assert module.seen == whole


def test_short_trainer_epochs_walk_through_all_of_the_data(fit: Fit) -> None:
    assert fit(Recorder(), max_epochs=4, limit_train_batches=4) == fit(Recorder(), max_epochs=2)


def test_overfitting_repeats_the_same_batches(fit: Fit) -> None:
    seen = fit(Recorder(), max_epochs=3, overfit_batches=2)
    assert len(seen) == 6
    assert seen[:2] == seen[2:4] == seen[4:]


@pytest.mark.parametrize("workers", [0, 2])
def test_plain_iteration_goes_on_where_it_stands(workers: int) -> None:
    loader = Numbered(batch_size=4, num_workers=workers).train_dataloader()
    whole = [batch.ids for _ in range(3) for batch in loader]
    assert len(whole) == 24
    again = Numbered(batch_size=4, num_workers=workers).train_dataloader()
    first = [batch.ids for _, batch in zip(range(5), again, strict=False)]
    resumed = Numbered(batch_size=4, num_workers=workers).train_dataloader()
    resumed.load_state_dict(again.state_dict())
    assert first + [batch.ids for _ in range(2) for batch in resumed] == whole[:21]


def test_iterating_leaves_the_global_random_state_alone() -> None:
    data = Numbered(batch_size=4)
    before = torch.get_rng_state()
    list(data.train_dataloader())
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_resuming_with_other_batches_is_said(caplog: pytest.LogCaptureFixture) -> None:
    place = Numbered(batch_size=4).train_dataloader().state_dict()
    Numbered(batch_size=4).train_dataloader().load_state_dict(place)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        Numbered(batch_size=8).train_dataloader().load_state_dict(place)
    assert "batch_size 4 and this one has 8" in caplog.text
    assert "batches 8 and this one has 4" in caplog.text
