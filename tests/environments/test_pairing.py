import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)

from srch3.environments.pairing import (
    PairedCheckpointIO,
    find_index,
    index_folder,
    pair_checkpoints,
    unpair_checkpoints,
)
from srch3.environments.storage import Generation, Snapshot
from srch3.errors import CheckpointError
from srch3.indexes import ExactIndex
from tests.environments.toy import ToyData, ToyModule, toy_corpus, trainer

KEY = "paired"
pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda number: None)


class Keeper(L.Callback):
    """Keeps one vector per training step, and saves them as an environment would."""

    state_key = KEY

    def __init__(self) -> None:
        self.index = ExactIndex()
        self.index.build(torch.eye(8))
        self.revision = self.step = 0
        self.found: Generation | None = None
        self.wanted = True

    def setup(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self.paired = pair_checkpoints(trainer.strategy, KEY, self.snapshot)

    def teardown(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        unpair_checkpoints(trainer.strategy)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.trainer, self.step = trainer, trainer.global_step
        row = self.step % 8
        self.index.update(torch.tensor([row]), -self.index.vectors[[row]].clone())
        self.revision += 1

    def snapshot(self) -> Snapshot | None:
        return Snapshot(self.index, self.revision, "corpus", self.step, {}, {}) if self.wanted else None

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert self.trainer.ckpt_path is not None
        self.found = find_index(self.trainer.ckpt_path, state_dict)


class Resumer(Keeper):
    def setup(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self.trainer = trainer


def fit(folder: Path, *savers: L.Callback, keeper: Keeper | None = None, **settings: Any) -> Keeper:
    keeper = keeper or Keeper()
    session = trainer(keeper, *savers, limit_val_batches=0, **settings)
    model = ToyModule()
    model.training_step = lambda batch, batch_idx: model.words.pow(2).mean()  # type: ignore[method-assign]
    session.fit(model, datamodule=ToyData(toy_corpus(5)))
    assert not isinstance(session.strategy.checkpoint_io, PairedCheckpointIO)
    return keeper


def every(folder: Path, steps: int, **settings: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, every_n_train_steps=steps, filename="{step}", **settings)


def saved(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)["callbacks"][KEY]
    return state


def found_in(path: Path) -> tuple[Generation, ExactIndex]:
    generation = find_index(path, saved(path))
    assert generation is not None
    index = ExactIndex()
    index.read(generation.index_folder)
    return generation, index


def flipped(step: int) -> torch.Tensor:
    vectors = torch.eye(8)
    vectors[[number % 8 for number in range(1, step + 1)]] *= -1
    return vectors


def test_every_checkpoint_has_the_index_of_its_moment(tmp_path: Path) -> None:
    fit(tmp_path, every(tmp_path, 1, save_top_k=-1))
    for step in range(1, 7):
        generation, index = found_in(tmp_path / f"step={step}.ckpt")
        assert generation.step == step
        assert torch.equal(index.vectors, flipped(step))
    assert len(list(tmp_path.iterdir())) == 12


def test_an_index_goes_with_its_checkpoint(tmp_path: Path) -> None:
    fit(tmp_path, every(tmp_path, 1, save_top_k=1, monitor="step", mode="max"))
    assert {path.name for path in tmp_path.iterdir()} == {"step=6.ckpt", "step=6.ckpt.index"}


def test_a_checkpoint_that_is_overwritten_keeps_one_index(tmp_path: Path) -> None:
    fit(tmp_path, ModelCheckpoint(tmp_path, every_n_train_steps=1, filename="last", enable_version_counter=False))
    generation, index = found_in(tmp_path / "last.ckpt")
    assert torch.equal(index.vectors, flipped(6))
    assert list(index_folder(tmp_path / "last.ckpt").iterdir()) == [generation.folder]


def test_checkpoints_of_one_moment_share_the_files(tmp_path: Path) -> None:
    fit(tmp_path, every(tmp_path / "a", 3, save_top_k=-1), every(tmp_path / "b", 3, save_top_k=-1, monitor="step"))
    for step in (3, 6):
        files = [found_in(tmp_path / folder / f"step={step}.ckpt")[0].index_folder for folder in "ab"]
        assert all(path.samefile(files[1] / path.name) for path in files[0].iterdir())
    first, last = (found_in(tmp_path / "a" / f"step={step}.ckpt")[0].index_folder for step in (3, 6))
    assert not (first / "vectors.safetensors").samefile(last / "vectors.safetensors")


def test_an_index_that_never_changes_is_written_once(tmp_path: Path) -> None:
    class Fixed(Keeper):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            self.step = trainer.global_step

    fit(tmp_path, every(tmp_path, 1, save_top_k=-1), keeper=Fixed())
    files = [found_in(tmp_path / f"step={step}.ckpt")[0].index_folder / "vectors.safetensors" for step in (1, 6)]
    assert files[0].samefile(files[1])


def test_a_linked_or_moved_checkpoint_finds_its_index(tmp_path: Path) -> None:
    fit(tmp_path, every(tmp_path, 6, save_top_k=-1))
    (tmp_path / "last.ckpt").symlink_to(tmp_path / "step=6.ckpt")
    assert found_in(tmp_path / "last.ckpt")[0].step == 6
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "step=6.ckpt").rename(tmp_path / "elsewhere" / "step=6.ckpt")
    state = torch.load(moved, weights_only=True)["callbacks"][KEY]
    with pytest.warns(UserWarning, match=r"got no such folder; all documents are encoded again"):
        assert find_index(moved, state) is None
    with pytest.raises(CheckpointError, match=r"got no such folder; keep step=6\.ckpt\.index beside the checkpoint"):
        find_index(moved, state | {"changed": True})


def test_checkpoints_of_weights_alone_have_none(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    keeper = Keeper()
    writer = PairedCheckpointIO(TorchCheckpointIO(), KEY, keeper.snapshot)
    writer.save_checkpoint({"state_dict": {}, "callbacks": {KEY: {}}}, path)
    assert index_folder(path).is_dir()
    writer.save_checkpoint({"state_dict": {}}, path)
    assert not index_folder(path).exists()


def test_a_model_that_does_not_search_saves_none(tmp_path: Path) -> None:
    keeper = Keeper()
    keeper.wanted = False
    fit(tmp_path, every(tmp_path, 6), keeper=keeper)
    path = tmp_path / "step=6.ckpt"
    assert saved(path) == {"step": 6}
    assert find_index(path, saved(path)) is None
    assert not index_folder(path).exists()


def test_what_the_caller_gave_stays_as_it_was(tmp_path: Path) -> None:
    state: dict[str, Any] = {"step": 1}
    checkpoint = {"state_dict": {}, "callbacks": {KEY: state, "other": {}}}
    PairedCheckpointIO(TorchCheckpointIO(), KEY, Keeper().snapshot).save_checkpoint(checkpoint, tmp_path / "a.ckpt")
    assert state == {"step": 1}
    assert checkpoint["callbacks"] == {KEY: state, "other": {}}
    assert saved(tmp_path / "a.ckpt")["step"] == 1


def test_a_checkpoint_that_cannot_be_written_leaves_the_pair_before(tmp_path: Path) -> None:
    class Full(TorchCheckpointIO):
        def save_checkpoint(self, *_: Any) -> None:
            raise CheckpointError("checkpoint: no room")

    path, keeper = tmp_path / "last.ckpt", Keeper()
    content = {"state_dict": {}, "callbacks": {KEY: {}}}
    PairedCheckpointIO(TorchCheckpointIO(), KEY, keeper.snapshot).save_checkpoint(content, path)
    keeper.step = 5
    with pytest.raises(CheckpointError, match="no room"):
        PairedCheckpointIO(Full(), KEY, keeper.snapshot).save_checkpoint(content, path)
    assert found_in(path)[0].step == 0


def test_a_resumed_run_finds_the_index(tmp_path: Path) -> None:
    fit(tmp_path, every(tmp_path, 6, save_top_k=-1))
    keeper, model = Resumer(), ToyModule()
    model.training_step = lambda batch, batch_idx: model.words.pow(2).mean()  # type: ignore[method-assign]
    session = trainer(keeper, max_epochs=2, limit_val_batches=0)
    session.fit(model, datamodule=ToyData(toy_corpus(5)), ckpt_path=tmp_path / "step=6.ckpt", weights_only=True)
    assert keeper.found is not None
    assert keeper.found.step == 6


def test_remote_checkpoints_have_none() -> None:
    calls: list[tuple[str, Any]] = []
    base: Any = SimpleNamespace(
        save_checkpoint=lambda content, path, options: calls.append(("save", (content, path, options))),
        remove_checkpoint=lambda path: calls.append(("remove", path)),
        load_checkpoint=lambda *arguments, **named: calls.append(("load", (arguments, named))),
        teardown=lambda: calls.append(("teardown", None)),
    )
    writer = PairedCheckpointIO(base, KEY, Keeper().snapshot)
    content: dict[str, Any] = {"callbacks": {KEY: {}}}
    writer.save_checkpoint(content, "s3://bucket/a.ckpt", {"a": 1})
    writer.remove_checkpoint("s3://bucket/a.ckpt")
    writer.load_checkpoint("s3://bucket/a.ckpt", weights_only=True)
    writer.load_checkpoint("s3://bucket/a.ckpt", "cpu")
    writer.teardown()
    assert calls == [
        ("save", (content, "s3://bucket/a.ckpt", {"a": 1})),
        ("remove", "s3://bucket/a.ckpt"),
        ("load", (("s3://bucket/a.ckpt",), {"weights_only": True})),
        ("load", (("s3://bucket/a.ckpt", "cpu", None), {})),
        ("teardown", None),
    ]


def test_pairing_twice_is_pairing_once_and_can_be_undone() -> None:
    strategy = SingleDeviceStrategy()
    base = strategy.checkpoint_io
    for _ in range(2):
        assert pair_checkpoints(strategy, KEY, lambda: None)
        assert isinstance(strategy.checkpoint_io, PairedCheckpointIO)
        assert strategy.checkpoint_io.base is base
    for _ in range(2):
        unpair_checkpoints(strategy)
        assert strategy.checkpoint_io is base


def deepspeed() -> Strategy:
    return DeepSpeedStrategy.__new__(DeepSpeedStrategy)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (deepspeed, "DeepSpeed writes checkpoints by itself"),
        (lambda: FSDPStrategy(state_dict_type="sharded"), "`state_dict_type: sharded` writes"),
        (lambda: ModelParallelStrategy(save_distributed_checkpoint=True), "`save_distributed_checkpoint: true` writes"),
        (lambda: DDPStrategy(checkpoint_io=AsyncCheckpointIO(TorchCheckpointIO())), "AsyncCheckpointIO does not say"),
    ],
)
def test_strategies_that_write_checkpoints_in_their_own_way_are_warned_about(make: Any, reason: str) -> None:
    strategy = make()
    if isinstance(strategy, DeepSpeedStrategy):
        strategy._checkpoint_io = None
    with pytest.warns(UserWarning, match=f"will hold no index, since {reason}.*; a resumed run encodes all documents"):
        assert not pair_checkpoints(strategy, KEY, lambda: None)
    assert not isinstance(strategy.checkpoint_io, PairedCheckpointIO)


def test_strategies_that_write_one_file_are_paired() -> None:
    for strategy in (FSDPStrategy(), ModelParallelStrategy(save_distributed_checkpoint=False), DDPStrategy()):
        assert pair_checkpoints(strategy, KEY, lambda: None)
