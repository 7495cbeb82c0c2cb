import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from srch3.environments import (
    BaseBudget,
    BaseEnvironment,
    DocumentBudget,
    ErrorBudget,
    SearchEnvironment,
    ShareBudget,
    search,
)
from srch3.environments.pairing import find_index
from srch3.environments.storage import Generation
from srch3.errors import CheckpointError
from srch3.indexes import BaseIndex, ExactIndex, HnswIndex
from tests.environments.toy import Recorder, ToyData, ToyModule, toy_corpus, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
STEPS = 6


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda number: None)


class Run(NamedTuple):
    recorder: Recorder
    model: ToyModule


class KilledError(Exception):
    pass


class Kill(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise KilledError


def run(
    folder: Path,
    index: Callable[[], BaseIndex] = ExactIndex,
    shared: bool = True,
    resume: int | None = None,
    kill: int = -1,
    budget: Callable[[], BaseBudget] = lambda: DocumentBudget(9),
    **settings: Any,
) -> Run:
    environment = SearchEnvironment(index(), budget=budget(), audit_every_n_steps=2, drift_every_n_steps=3)
    saver = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    recorder, model = Recorder(environment), ToyModule(lr=0.1)
    data = ToyData(toy_corpus(60), None if shared else toy_corpus(30, seed=1), steps=STEPS)
    path = folder / f"step={resume}.ckpt" if resume else None
    try:
        session = trainer(environment, Kill(kill), saver, recorder, max_epochs=2, **settings)
        session.fit(model, datamodule=data, ckpt_path=path, weights_only=True)
    except KilledError:
        pass
    return Run(recorder, model)


def without_clocks(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: figure for name, figure in figures.items() if "seconds" not in name}


def assert_same_from(step: int, whole: Run, resumed: Run) -> None:
    assert set(resumed.recorder.vectors) | {step} == {number for number in whole.recorder.vectors if number >= step}
    for number in resumed.recorder.vectors:
        assert torch.equal(whole.recorder.vectors[number], resumed.recorder.vectors[number]), number
        assert torch.equal(whole.recorder.stamps[number], resumed.recorder.stamps[number]), number
        figures = resumed.recorder.metrics[number]
        expected = {name: whole.recorder.metrics[number].get(name) for name in figures}
        if number > step + 3:
            assert without_clocks(figures) == without_clocks(expected), number
    for number, observation in resumed.model.observations.items():
        hits = whole.model.observations[number].hits
        assert torch.equal(observation.hits.rows, hits.rows), number
        assert torch.equal(observation.hits.scores, hits.scores), number
    assert torch.equal(whole.model.words, resumed.model.words)


@pytest.mark.parametrize("index", [ExactIndex, HnswIndex])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("settings", [{}, {"val_check_interval": 2}, {"limit_val_batches": 0}])
def test_a_resumed_run_equals_one_that_was_never_stopped(
    tmp_path: Path, index: Callable[[], BaseIndex], shared: bool, settings: dict[str, Any]
) -> None:
    whole = run(tmp_path, index, shared, **settings)
    assert len(whole.recorder.vectors) == 2 * STEPS
    for step in (4, 6, 9):
        assert_same_from(step, whole, run(tmp_path, index, shared, resume=step, **settings))


def test_with_accumulated_gradients_too(tmp_path: Path) -> None:
    whole = run(tmp_path, accumulate_grad_batches=2)
    for step in (2, 3, 4):
        assert_same_from(step, whole, run(tmp_path, resume=step, accumulate_grad_batches=2))


def test_a_killed_run_resumes_from_what_it_left(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    killed = run(tmp_path / "killed", kill=7)
    assert max(killed.recorder.vectors) == 7
    assert_same_from(7, whole, run(tmp_path / "killed", resume=7))


def index_at(path: Path) -> Generation:
    generation = find_index(path, torch.load(path, weights_only=True)["callbacks"]["srch3.environment"])
    assert generation is not None
    return generation


def test_beside_a_checkpoint_lies_the_index_as_it_is_after_that_step(tmp_path: Path) -> None:
    whole = run(tmp_path, limit_val_batches=0)
    saved = index_at(tmp_path / "step=4.ckpt")
    index = ExactIndex()
    index.read(saved.index_folder)
    assert torch.equal(index.vectors, whole.recorder.vectors[4])
    assert torch.equal(saved.tensors()["stamps"], whole.recorder.stamps[4])
    assert {"more.within", "more.across", "moved"} < set(saved.tensors())
    assert saved.step == 4
    size = (tmp_path / "step=4.ckpt").stat().st_size
    assert size < 3 * 40 * 8 * 4 + 20_000


def test_what_a_budget_learned_is_resumed(tmp_path: Path) -> None:
    learning = partial(ErrorBudget, target=1e-9)
    whole = run(tmp_path, budget=learning, limit_val_batches=0)
    counts = {int(figures["env/refreshed"]) for figures in whole.recorder.metrics.values()}
    assert len(counts) > 3
    assert_same_from(5, whole, run(tmp_path, budget=learning, resume=5, limit_val_batches=0))
    with pytest.raises(CheckpointError, match=r"expected a saved state of ShareBudget with \[\]; got \['share'\]"):
        run(tmp_path, budget=ShareBudget, resume=5)


def test_resuming_does_not_encode_the_corpus_again(tmp_path: Path) -> None:
    run(tmp_path, limit_val_batches=0)
    resumed = run(tmp_path, resume=5, limit_val_batches=0)
    assert resumed.model.encoded[0] == 9


def test_resuming_on_another_corpus_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    session = trainer(SearchEnvironment(), Kill(-1), ModelCheckpoint(tmp_path, filename="x"), max_epochs=2)
    with pytest.raises(CheckpointError, match=r"\(60 documents, .*; got 60 documents, .*; resume with the same data"):
        session.fit(ToyModule(), datamodule=ToyData(toy_corpus(60, seed=9)), ckpt_path=tmp_path / "step=4.ckpt")


def test_resuming_with_another_index_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(CheckpointError, match="kind='exact'; got 'hnsw'"):
        run(tmp_path, HnswIndex, resume=4)


def test_resuming_with_the_folder_of_another_step_is_refused(tmp_path: Path) -> None:
    run(tmp_path, limit_val_batches=0)
    shutil.rmtree(tmp_path / "step=4.ckpt.index")
    shutil.copytree(tmp_path / "step=3.ckpt.index", tmp_path / "step=4.ckpt.index")
    with pytest.raises(CheckpointError, match="got no such folder"):
        run(tmp_path, resume=4)


@pytest.mark.filterwarnings("ignore:.*got no such folder")
def test_resuming_without_the_folder_beside_the_checkpoint_encodes_again(tmp_path: Path) -> None:
    run(tmp_path, limit_val_batches=0)
    shutil.rmtree(tmp_path / "step=4.ckpt.index")
    assert run(tmp_path, resume=4, limit_val_batches=0).model.encoded[0] == 60


@pytest.mark.parametrize(("saved_on", "moved"), [("cpu", "cpu"), ("cuda", "cpu")])
def test_restored_vectors_go_where_they_were_if_there_is_such_a_device(
    tmp_path: Path, saved_on: str, moved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    devices = []
    find = search.find_index

    def found(*given: Any) -> Generation | None:
        generation = find(*given)
        assert generation is not None
        return generation._replace(values=generation.values | {"device": saved_on})

    monkeypatch.setattr(search, "find_index", found)
    monkeypatch.setattr(ExactIndex, "to", lambda self, device: devices.append(torch.device(device).type))
    run(tmp_path, resume=4)
    assert devices == [moved]


def test_the_part_of_a_checkpoint_keeps_its_name_whatever_the_class() -> None:
    class Custom(SearchEnvironment):
        pass

    assert Custom().state_key == SearchEnvironment().state_key == "srch3.environment"
    assert isinstance(Custom(), BaseEnvironment)
    assert Custom().state_dict() == {"index": False}
