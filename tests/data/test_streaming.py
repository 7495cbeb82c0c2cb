import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from srch3.data import HubStreamDataModule, KeywordThoughts
from srch3.errors import ConfigError, DataError, SearchError
from srch3.types import TrainBatch


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)))


def row(name: str, number: int) -> dict[str, Any]:
    return {"query": f"{name} {number}", "positive": f"text {number % 60}", "why": f"because {number}"}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Three files of 40 training rows; five of validation, one of which asks what a training row asks."""
    for part in range(3):
        write(tmp_path / f"train-{part}.jsonl", [row("train", 40 * part + number) for number in range(40)])
    write(tmp_path / "validation.jsonl", [row("val", number) for number in range(4)] + [row("train", 7)])
    return str(tmp_path)


def stream(folder: str, **settings: Any) -> HubStreamDataModule:
    return HubStreamDataModule(folder, **({"batch_size": 4, "shuffle_buffer": 60} | settings))


def queries(data: HubStreamDataModule, epochs: int = 1) -> list[list[str]]:
    loader = data.train_dataloader()
    return [batch.texts for _ in range(epochs) for batch in loader]


def flat(batches: list[list[str]]) -> set[str]:
    return {query for batch in batches for query in batch}


TRAIN = {f"train {number}" for number in range(120)} - {"train 7"}


def test_an_epoch_has_every_training_query_but_those_of_validation(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    batches = queries(stream(folder), 2)
    first, second = batches[:29], batches[29:]
    assert [len(batch) for batch in batches] == [4] * 58
    assert len(flat(first)) == len(flat(second)) == 116
    assert flat(first) < TRAIN
    assert flat(second) < TRAIN
    assert first != second
    assert caplog.text.count("left out 1 rows whose query is in validation or test too") == 1


def test_files_come_in_an_order_of_the_epoch(folder: str) -> None:
    loader = stream(folder, shuffle_buffer=8).train_dataloader()
    firsts = {min(int(query.split()[1]) // 40 for query in next(iter([*loader])).texts) for _ in range(6)}
    assert len(firsts) > 1


def test_batches_are_drawn_by_the_seed(folder: str) -> None:
    assert queries(stream(folder)) == queries(stream(folder)) != queries(stream(folder, seed=1))


def test_a_batch_has_texts_thoughts_and_ids(folder: str) -> None:
    for batch in stream(folder, thought_column="why").train_dataloader():
        numbers = [int(query.split()[1]) for query in batch.texts]
        assert batch.positives == [[f"text {number % 60}"] for number in numbers]
        assert batch.thoughts == [f"because {number}" for number in numbers]
        assert [list(relevant) for relevant in batch.relevant] == batch.positive_ids
        assert len({number % 60 for number in numbers}) == 4


def test_ranks_take_their_share_of_the_same_batches(folder: str) -> None:
    parts = []
    for rank in range(2):
        data = stream(folder, batch_size=2)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, limit_train_batches=1.0)  # type: ignore[assignment]
        loader = data.train_dataloader()
        loader._finished = None
        parts.append([batch.texts for batch in loader])
    assert [one + other for one, other in zip(*parts, strict=True)] == queries(stream(folder))


def test_the_number_of_workers_changes_nothing(folder: str) -> None:
    assert queries(stream(folder, num_workers=2), 2) == queries(stream(folder), 2)


def test_a_slice_is_a_slice(folder: str) -> None:
    low, high = (flat(queries(stream(folder, batch_size=1, train_slice=part))) for part in ((0.0, 0.4), (0.4, 1.0)))
    assert low
    assert high
    assert low | high == TRAIN
    assert not low & high


def test_validation_and_test_are_held_with_their_documents(folder: str) -> None:
    write(Path(folder) / "test.jsonl", [row("test", 70), row("train", 9)])
    data = stream(folder)
    data.setup("fit")
    data.setup("test")
    assert [query.text for query in data.queries("val")] == ["val 0", "val 1", "val 2", "val 3", "train 7"]
    assert [query.text for query in data.queries("predict")] == ["test 70", "train 9"]
    assert list(data.corpus("val").texts) == ["text 0", "text 1", "text 2", "text 3", "text 7", "text 10", "text 9"]
    assert "train 9" not in flat(queries(data))


def test_without_a_validation_split_the_first_rows_are_held_out(folder: str) -> None:
    (Path(folder) / "validation.jsonl").unlink()
    data = stream(folder, val_rows=10, batch_size=1)
    held = {query.text for query in data.queries("val")}
    assert held == {f"train {number}" for number in range(10)}
    assert flat(queries(data)) == {f"train {number}" for number in range(10, 120)}


def test_a_stream_without_end_is_read_as_far_as_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> Iterator[dict[str, Any]]:
        number = 0
        while True:
            yield row("endless", number)
            number += 1

    def load_dataset(*args: Any, **kwargs: Any) -> dict[str, datasets.IterableDataset]:
        assert (args, kwargs) == (("org/set", "english"), {"streaming": True})
        return {"train": datasets.IterableDataset.from_generator(endless)}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = stream("org/set", name="english", val_rows=5)
    data.setup("fit")
    batches = [batch.texts for _, batch in zip(range(20), data.train_dataloader(), strict=False)]
    assert flat(batches[:15]) == {f"endless {number}" for number in range(5, 65)}


def test_files_of_a_pattern_are_read(tmp_path: Path) -> None:
    for part in range(2):
        rows = [row("train", 40 * part + number) for number in range(40)]
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / f"part{part}.parquet")
    data = stream("parquet", data_files={"train": str(tmp_path / "*.parquet")}, val_rows=4, num_workers=1)
    assert flat(queries(data)) == {f"train {number}" for number in range(4, 80)}


class Recorder(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[str]] = []

    def training_step(self, batch: TrainBatch, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.texts)
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(data: HubStreamDataModule, folder: Path, ckpt_path: Path | None = None, **limits: Any) -> list[list[str]]:
    module = Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)],
        default_root_dir=folder,
        **limits,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module.seen


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize(
    ("steps", "limits"),
    [
        ((5, 29, 40), {"max_steps": 70}),
        ((7, 30), {"max_epochs": 7, "limit_train_batches": 10}),
        ((28, 29), {"max_epochs": 2, "limit_train_batches": 35}),
    ],
)
def test_a_resumed_run_sees_exactly_the_remaining_batches(
    folder: str, tmp_path: Path, steps: tuple[int, ...], limits: dict[str, Any]
) -> None:
    whole = fit(stream(folder), tmp_path / "whole", **limits)
    assert whole == queries(stream(folder), 4)[: len(whole)]
    assert len(whole) == 70
    for step in steps:
        checkpoint = tmp_path / "whole" / f"step={step}.ckpt"
        rest = fit(stream(folder, num_workers=step % 2), tmp_path / f"rest{step}", checkpoint, **limits)
        assert rest == whole[step:]


def with_trainer(data: HubStreamDataModule, **settings: Any) -> HubStreamDataModule:
    data.trainer = L.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False, **settings)
    return data


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (lambda path: stream(path).corpus("train"), ConfigError, "data: expected a data module that holds its train"),
        (lambda path: stream(path).queries("train"), ConfigError, "got HubStreamDataModule, which streams; use HubD"),
        (
            lambda path: stream(path, thoughts=KeywordThoughts()).setup("fit"),
            ConfigError,
            "never seen as a whole; got Key",
        ),
        (
            lambda path: stream(path, shuffle_buffer=0),
            ConfigError,
            "data.init_args.shuffle_buffer: expected at least 1",
        ),
        (lambda path: stream(path, limit_train=5), ConfigError, "data.init_args.limit_train: expected none, since a"),
        (lambda path: stream(path, val_rows=0), ConfigError, "data.init_args.val_rows: expected at least 1; got 0"),
        (lambda path: queries(stream(path, shuffle_buffer=3)), ConfigError, "shuffle_buffer: expected at least the 4"),
        (
            lambda path: with_trainer(stream(path), max_epochs=3).setup("fit"),
            ConfigError,
            "trainer.max_steps: expected",
        ),
        (lambda path: queries(stream(path, train_split="x")), DataError, "data.init_args.train_split: expected one of"),
        (lambda path: queries(stream(path, query_column="x")), DataError, "data.init_args.query_column: expected one"),
        (
            lambda path: queries(stream(f"{path}/none")),
            DataError,
            "data.init_args.path: expected a data set on the hub",
        ),
        (lambda path: stream(path).setup("test"), DataError, "data.init_args.test_split: expected examples to test"),
    ],
)
def test_what_cannot_be_is_named(
    folder: str, action: Callable[[str], object], error: type[SearchError], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        action(folder)


def test_a_length_that_is_set_is_enough(folder: str) -> None:
    for settings in ({"max_steps": 3}, {"max_epochs": 2, "limit_train_batches": 3}, {"fast_dev_run": True}):
        data = with_trainer(stream(folder), **settings)
        data.setup("fit")
        assert len(data.queries("val")) == 5


def test_a_row_that_cannot_be_learnt_from_is_refused_or_skipped(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    write(Path(folder) / "train-1.jsonl", [row("train", number) | {"positive": ""} for number in range(40, 80)])
    with pytest.raises(DataError, match="an empty positive"):
        queries(stream(folder))
    with caplog.at_level(logging.WARNING):
        assert flat(queries(stream(folder, invalid="skip", batch_size=1))) == TRAIN - {
            f"train {number}" for number in range(40, 80)
        }
    assert "train: left out as invalid: 40 with an empty positive" in caplog.text
