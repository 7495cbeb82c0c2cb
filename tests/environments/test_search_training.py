import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from srch3.environments import (
    BaseBudget,
    BaseRefresh,
    DocumentBudget,
    ErrorBudget,
    FullRefresh,
    NoCorrection,
    NoRefresh,
    OldestRefresh,
    RidgeCorrection,
    SearchEnvironment,
    View,
    audit,
)
from srch3.environments.touched import Touched
from srch3.errors import ConfigError
from srch3.indexes import BaseIndex, ExactIndex, HnswIndex
from tests.environments.toy import Recorder, ToyData, ToyModule, toy_corpus, trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")


class Shown(NamedTuple):
    step: int
    seen: Touched
    stale: int


class Spy(BaseRefresh):
    """Refreshes three fixed documents where they are stale, and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__(sweep=0)
        self.calls: list[Shown] = []

    def quota(self, budget: int, waiting: int) -> int:
        return 3

    def rank(self, view: View, room: int) -> Tensor:
        self.calls.append(Shown(view.step, view.seen, int(view.stale.sum())))
        return torch.tensor([1, 4, 9])

    def __deepcopy__(self, memo: object) -> "Spy":
        return self


@pytest.mark.parametrize("accumulated", [1, 2, 3])
def test_each_batch_is_searched_after_a_refresh_by_what_it_touches(accumulated: int) -> None:
    spy, model = Spy(), ToyModule()
    environment = SearchEnvironment(refresh=spy, correction=NoCorrection())
    data = ToyData(toy_corpus(60), steps=7)
    trainer(environment, accumulate_grad_batches=accumulated, limit_val_batches=0).fit(model, datamodule=data)
    assert len(spy.calls) == 7 - accumulated
    for number, call in enumerate(spy.calls, start=accumulated):
        assert call.step == number // accumulated
        assert set(call.seen.positives.tolist()) == {row for judged in model.pending[number].relevant for row in judged}
        assert call.stale == 60 - 3 * (number % accumulated)
    assert model.encoded[0] == 60
    assert set(model.encoded[1:]) == {3}


class Moment(Callback):
    """Compares the index with the model just before each optimizer step, when its searches are over."""

    def __init__(self, environment: SearchEnvironment, fresh: Callable[[int], Tensor]) -> None:
        self.environment, self.fresh, self.steps = environment, fresh, 0

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Tensor) -> None:
        state = self.environment.state("train")
        rows = self.fresh(trainer.global_step)
        with torch.no_grad():
            now = pl_module.embed(state.corpus.texts)
        found = state.searcher.vectors_of(torch.arange(len(state)))
        rest = torch.ones(len(state), dtype=torch.bool).index_fill(0, rows, False)
        torch.testing.assert_close(found[rows], now[rows])
        assert not rest.any() or not torch.allclose(found[rest], now[rest])
        assert (state.stamps[rows] == trainer.global_step).all()
        assert (state.stamps[rest] == 0).all()
        hits = pl_module.observations[trainer.global_step].hits
        torch.testing.assert_close(hits.scores, self.scores(pl_module, hits.rows, found))
        self.steps += 1

    def scores(self, model: ToyModule, rows: Tensor, vectors: Tensor) -> Tensor:
        embeddings = model.observations[self.steps].embeddings
        return torch.einsum("qd,qhd->qh", embeddings, vectors[rows])


@pytest.mark.parametrize("index", [ExactIndex(), HnswIndex()])
def test_rewards_are_of_documents_that_the_weights_of_the_moment_encoded(index: BaseIndex) -> None:
    environment = SearchEnvironment(index, Spy())
    check = Moment(environment, lambda step: torch.tensor([1, 4, 9]) if step else torch.arange(20))
    run = trainer(environment, check, limit_val_batches=0)
    run.fit(ToyModule(), datamodule=ToyData(toy_corpus(20)))
    assert check.steps == 6


class Linear(ToyModule):
    """Learns a linear map of all embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = torch.nn.Parameter(torch.eye(8))

    def embed(self, texts: Sequence[str]) -> Tensor:
        return torch.nn.functional.normalize(super().embed(texts) @ self.turn, dim=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([self.turn], lr=0.05)


def test_the_rest_follows_by_the_correction() -> None:
    drifts = {}
    for correction in (NoCorrection(), RidgeCorrection(prior=1.0)):
        environment = SearchEnvironment(
            budget=DocumentBudget(20), correction=correction, drift_every_n_steps=5, drift_documents=60
        )
        run = trainer(environment, limit_val_batches=0)
        run.fit(Linear(), datamodule=ToyData(toy_corpus(60)))
        drifts[type(correction)] = float(run.callback_metrics["env/drift"])
    assert 0 < drifts[RidgeCorrection] < 0.6 * drifts[NoCorrection]


def test_logged_figures_are_what_happened() -> None:
    environment = SearchEnvironment(refresh=Spy())
    recorder = Recorder(environment)
    trainer(environment, recorder, limit_val_batches=0).fit(ToyModule(), datamodule=ToyData(toy_corpus(20)))
    refresh = {"size", "age_mean", "age_max", "refreshed", "refreshed_share", "refresh_seconds", "moved", "unexplained"}
    figures = recorder.metrics[5]
    assert set(figures) == {f"env/{name}" for name in refresh}
    assert figures["env/size"] == 20
    assert figures["env/age_mean"] == pytest.approx(4 * 17 / 20)
    assert figures["env/age_max"] == 4
    assert figures["env/refreshed"] == 3
    assert figures["env/refreshed_share"] == pytest.approx(3 / 20)
    assert figures["env/refresh_seconds"] > 0
    assert figures["env/moved"] > 0
    assert set(recorder.metrics[1]) == {f"env/{name}" for name in refresh - {"moved", "unexplained"}}


def test_an_approximate_index_reports_its_health() -> None:
    run = trainer(SearchEnvironment(HnswIndex()), limit_val_batches=0)
    run.fit(ToyModule(), datamodule=ToyData(toy_corpus(80)))
    figures = {name: float(run.callback_metrics[f"env/{name}"]) for name in HnswIndex().health()}
    assert figures["ann_recall"] >= 0.98
    assert figures["exact_fallback"] == 0


def test_what_changed_is_worked_into_the_index_before_the_checkpoint_of_a_validated_step() -> None:
    class Overlay(Recorder):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            self.metrics[trainer.global_step] = self.environment.state("train").index.health()

    environment = SearchEnvironment(HnswIndex(overlay_share=1.0))
    recorder = Overlay(environment)
    data = ToyData(toy_corpus(80), toy_corpus(30, seed=1))
    trainer(environment, recorder, val_check_interval=3).fit(ToyModule(), datamodule=data)
    waiting = [recorder.metrics[step]["overlay_share"] for step in range(1, 7)]
    assert waiting == pytest.approx([0, 4 / 80, 0, 4 / 80, 8 / 80, 0], abs=1 / 80)
    assert waiting[2] == waiting[5] == 0 < waiting[1] < waiting[4]


class Plant(BaseBudget):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, float, float]] = []
        self.audits: list[dict[str, float]] = []

    def wanted(self, count: int) -> int:
        return 5

    def spent(self, documents: int, refresh_seconds: float, step_seconds: float) -> None:
        self.told.append((documents, refresh_seconds, step_seconds))

    def audited(self, figures: dict[str, float]) -> None:
        self.audits.append(figures)

    def __deepcopy__(self, memo: object) -> "Plant":
        return self


def test_a_budget_is_told_what_each_step_took_without_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    plant, recall = Plant(), audit.recall
    monkeypatch.setattr(audit, "recall", lambda *given: time.sleep(1) or recall(*given))
    environment = SearchEnvironment(HnswIndex(), budget=plant, audit_every_n_steps=2, drift_every_n_steps=3)
    recorder = Recorder(environment)
    trainer(environment, recorder, limit_val_batches=0).fit(ToyModule(), datamodule=ToyData(toy_corpus(40)))
    assert [documents for documents, *_ in plant.told] == [0, 5, 5, 5, 5, 5]
    for number, (_, refresh, step) in enumerate(plant.told, start=1):
        assert refresh == pytest.approx(recorder.metrics[number]["env/refresh_seconds"], rel=1e-4)
        assert refresh < step < 1
    assert len(plant.audits) == 2
    assert all(figures["audit_seconds"] > 1 and "reward_mae" in figures for figures in plant.audits)


def test_a_budget_that_needs_audits_gets_them() -> None:
    with pytest.raises(ConfigError, match="audit_every_n_steps: expected at least 1 with ErrorBudget, which learns"):
        SearchEnvironment(budget=ErrorBudget())
    environment = SearchEnvironment(None, OldestRefresh(), ErrorBudget(target=1e-9), NoCorrection(), 1)
    recorder = Recorder(environment)
    trainer(environment, recorder, limit_val_batches=0).fit(ToyModule(), datamodule=ToyData(toy_corpus(100)))
    assert [recorder.metrics[step]["env/refreshed"] for step in range(1, 7)] == [0, 5, 10, 20, 40, 50]
    again = trainer(environment, limit_val_batches=0)
    again.fit(ToyModule(), datamodule=ToyData(toy_corpus(100), steps=2))
    assert float(again.callback_metrics["env/refreshed"]) == 5


def test_full_refresh_keeps_training_exact_and_none_leaves_it_as_it_began() -> None:
    for policy, fresh in ((FullRefresh(), True), (NoRefresh(), False)):
        environment = SearchEnvironment(refresh=policy)
        recorder, model = Recorder(environment), ToyModule()
        check = Moment(environment, lambda step: torch.arange(20)) if fresh else Callback()
        run = trainer(environment, recorder, check, limit_val_batches=0)
        run.fit(model, datamodule=ToyData(toy_corpus(20)))
        assert recorder.stamps[6].unique().tolist() == ([5] if fresh else [0])
        if not fresh:
            torch.testing.assert_close(recorder.vectors[6], ToyModule().embed(toy_corpus(20).texts).detach())


@pytest.mark.parametrize("shared", [True, False])
def test_no_document_is_encoded_twice_with_the_same_weights(shared: bool) -> None:
    data = ToyData(toy_corpus(40), None if shared else toy_corpus(30, seed=1))
    model = ToyModule()
    trainer(SearchEnvironment(budget=DocumentBudget(4)), max_epochs=2).fit(model, datamodule=data)
    first = [4] * 5 + [40 if shared else 30]
    second = [4] * (5 if shared else 6) + [40 if shared else 30]
    assert model.encoded == ([40] if shared else [30, 40]) + first + second
