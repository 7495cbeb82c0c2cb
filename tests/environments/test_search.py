from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from srch3.environments import BaseRefresh, FullRefresh, NeighbourhoodRefresh, NoRefresh, SearchEnvironment
from srch3.environments.touched import Touched, touched, union
from srch3.errors import ConfigError, NumericError
from srch3.indexes import BaseIndex, ExactIndex, HnswIndex
from srch3.types import Split
from tests.environments.toy import Recorder, ToyData, ToyModule, toy_corpus, trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
other_callbacks = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


def exact_hits(model: ToyModule, data: ToyData, split: Split) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        corpus = data.corpus(split)
        index = ExactIndex()
        index.build(model.embed(corpus.texts))
        texts = [text.rsplit(" ", 2)[0] for text in corpus.texts[:4]]
        return index.search(model.embed(texts), model.k)


class Evaluations(Callback):
    """What each evaluation found, beside what an exact index of the model of the moment finds."""

    def __init__(self, data: ToyData) -> None:
        self.data = data
        self.count = 0

    def check(self, model: ToyModule, split: Split) -> None:
        expected = exact_hits(model, self.data, split)
        assert torch.equal(model.evaluations[-1].rows, expected[0])
        torch.testing.assert_close(model.evaluations[-1].scores, expected[1], atol=1e-6, rtol=0)
        self.count += 1

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.check(pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.check(pl_module, "test")

    def on_predict_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.check(pl_module, "predict")


class Spy(BaseRefresh):
    """Refreshes three fixed documents, and remembers what it was shown."""

    def __init__(self) -> None:
        self.calls: list[Touched] = []

    def select(self, seen: Touched, index: BaseIndex, stamps: Tensor) -> Tensor:
        self.calls.append(seen)
        return torch.tensor([1, 4, 9])

    def __deepcopy__(self, memo: object) -> "Spy":
        return self


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("index", [ExactIndex(), HnswIndex()])
def test_every_evaluation_is_exact(shared: bool, index: BaseIndex) -> None:
    data = ToyData(toy_corpus(50), None if shared else toy_corpus(30, seed=1))
    checks = Evaluations(data)
    environment = SearchEnvironment(index)
    run = trainer(environment, checks, val_check_interval=2, max_epochs=2)
    model = ToyModule(lr=0.2)
    run.fit(model, datamodule=data)
    assert checks.count == 1 + 6
    run.validate(model, datamodule=data, verbose=False)
    run.test(model, datamodule=data, verbose=False)
    run.predict(model, datamodule=data)
    assert checks.count == 7 + 3


@other_callbacks
def test_a_test_of_other_weights_at_the_same_step_is_exact(tmp_path: Any) -> None:
    data = ToyData(toy_corpus(40))
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    checks = Evaluations(data)
    run = trainer(SearchEnvironment(), checks, saver)
    model = ToyModule(lr=0.5)
    run.fit(model, datamodule=data)
    after = model.evaluations[-1]
    run.test(model, datamodule=data, ckpt_path=tmp_path / "step=3.ckpt", verbose=False)
    assert not torch.equal(model.evaluations[-1].scores, after.scores)
    with torch.no_grad():
        model.words.mul_(torch.linspace(-1, 1, 8))
    run.test(model, datamodule=data, verbose=False)
    fresh = trainer(SearchEnvironment(), checks)
    fresh.test(ToyModule(seed=5), datamodule=data, ckpt_path=tmp_path / "step=6.ckpt", verbose=False)
    torch.testing.assert_close(fresh.lightning_module.evaluations[-1].scores, after.scores)


@other_callbacks
def test_a_checkpoint_can_be_tested_on_another_corpus(tmp_path: Any) -> None:
    saver = ModelCheckpoint(tmp_path, filename="last")
    trainer(SearchEnvironment(), saver).fit(ToyModule(), datamodule=ToyData(toy_corpus(40)))
    other = ToyData(toy_corpus(25, seed=3))
    checks = Evaluations(other)
    trainer(SearchEnvironment(), checks).test(
        ToyModule(), datamodule=other, ckpt_path=tmp_path / "last.ckpt", verbose=False
    )
    assert checks.count == 1


@pytest.mark.parametrize("accumulated", [1, 2, 3])
def test_a_refresh_follows_each_optimizer_step_with_all_that_was_seen_since_the_last(accumulated: int) -> None:
    spy, model = Spy(), ToyModule()
    recorder = Recorder(environment := SearchEnvironment(refresh=spy))
    data = ToyData(toy_corpus(60), steps=7)
    trainer(environment, recorder, accumulate_grad_batches=accumulated, limit_val_batches=0).fit(model, datamodule=data)
    batches = [list(range(first, min(first + accumulated, 7))) for first in range(0, 7, accumulated)]
    assert len(spy.calls) == len(batches)
    for call, numbers in zip(spy.calls, batches, strict=True):
        expected = union(touched(model.observations[number]) for number in numbers)
        assert torch.equal(call.positives, expected.positives)
        assert torch.equal(call.hits, expected.hits)
        torch.testing.assert_close(call.weights, expected.weights)
    assert model.encoded == [60] + [3] * len(batches)


def test_refreshed_documents_have_the_vectors_and_stamp_of_the_model_after_the_step() -> None:
    class Check(Callback):
        before = torch.empty(0)

        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            self.before = environment.state("train").index.vectors.clone()

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
            state = environment.state("train")
            with torch.no_grad():
                now = pl_module.embed(state.corpus.texts)
            rows = torch.tensor([1, 4, 9])
            torch.testing.assert_close(state.index.vectors[rows], now[rows])
            rest = torch.tensor([row for row in range(20) if row not in rows])
            assert torch.equal(state.index.vectors[rest], self.before[rest])
            assert not torch.allclose(state.index.vectors[rest], now[rest])
            assert state.stamps[rows].tolist() == [trainer.global_step] * 3
            assert (state.stamps[rest] == 0).all()

    environment = SearchEnvironment(refresh=Spy())
    trainer(environment, Check(), limit_val_batches=0).fit(ToyModule(), datamodule=ToyData(toy_corpus(20)))


def test_logged_figures_are_what_happened() -> None:
    environment = SearchEnvironment(refresh=Spy())
    recorder = Recorder(environment)
    trainer(environment, recorder, limit_val_batches=0).fit(ToyModule(), datamodule=ToyData(toy_corpus(20)))
    figures = recorder.metrics[4]
    assert set(figures) == {f"env/{n}" for n in ("size", "age_mean", "age_max", "refreshed_share", "refresh_seconds")}
    assert figures["env/size"] == 20
    assert figures["env/age_mean"] == pytest.approx(4 * 17 / 20)
    assert figures["env/age_max"] == 4
    assert figures["env/refreshed_share"] == pytest.approx(3 / 20)
    assert figures["env/refresh_seconds"] > 0


def test_full_refresh_keeps_training_exact_and_none_leaves_it_as_it_began() -> None:
    for policy, fresh in ((FullRefresh(), True), (NoRefresh(), False)):
        environment = SearchEnvironment(refresh=policy)
        recorder, model = Recorder(environment), ToyModule()
        trainer(environment, recorder, limit_val_batches=0).fit(model, datamodule=ToyData(toy_corpus(20)))
        with torch.no_grad():
            weights = model if fresh else ToyModule()
            torch.testing.assert_close(recorder.vectors[6], weights.embed(toy_corpus(20).texts))
        assert recorder.stamps[6].unique().tolist() == ([6] if fresh else [0])


@pytest.mark.parametrize("shared", [True, False])
def test_no_document_is_encoded_twice_with_the_same_weights(shared: bool) -> None:
    data = ToyData(toy_corpus(40), None if shared else toy_corpus(30, seed=1))
    model = ToyModule()
    trainer(SearchEnvironment(refresh=NeighbourhoodRefresh(documents=4)), max_epochs=2).fit(model, datamodule=data)
    epoch = [4] * 6 + [36 if shared else 30]
    assert model.encoded == ([40] if shared else [30, 40]) + epoch + epoch


def test_distinct_corpora_have_indexes_of_their_own() -> None:
    environment = SearchEnvironment()
    data = ToyData(toy_corpus(40), toy_corpus(30, seed=1))
    trainer(environment).fit(ToyModule(), datamodule=data)
    train, val = environment.state("train"), environment.state("val")
    assert (len(train.index), len(val.index)) == (40, 30)
    assert environment.state("val") is val
    assert len(environment.index) == 0


class Supervised(ToyModule):
    searches_while_training = False

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.embed(["1 2 3"]).sum()


def test_a_model_that_searches_only_to_be_evaluated_costs_nothing_while_it_trains() -> None:
    data = ToyData(toy_corpus(40), toy_corpus(30, seed=1))
    environment, model, checks = SearchEnvironment(), Supervised(lr=0.2), Evaluations(data)
    run = trainer(environment, checks)
    run.fit(model, datamodule=data)
    assert model.encoded == [30, 30]
    assert checks.count == 2
    assert not any(key.startswith("env/") for key in run.callback_metrics)
    assert environment.state_dict() == {}


def test_a_model_that_did_not_say_that_it_searches_is_told_so() -> None:
    class Forgetful(ToyModule):
        searches_while_training = False

    with pytest.raises(ConfigError, match=r"split 'train' to be encoded .* `searches_while_training = True`"):
        trainer(SearchEnvironment(), limit_val_batches=0).fit(Forgetful(), datamodule=ToyData(toy_corpus(20)))


def test_a_model_without_an_encoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="expects a model with encode_documents; got BoringModel; use NoEnvironment"):
        trainer(SearchEnvironment(), limit_val_batches=0).fit(BoringModel(), datamodule=ToyData(toy_corpus(20)))


class BoringModel(L.LightningModule):
    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        return None

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> None:
        return None


def test_a_diverged_model_is_named_as_such() -> None:
    class Diverging(ToyModule):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            self.words.grad.fill_(float("nan"))

    with pytest.raises(NumericError, match="vectors: expected finite numbers; got NaN"):
        trainer(SearchEnvironment()).fit(Diverging(), datamodule=ToyData(toy_corpus(20)))


def test_a_long_encoding_is_reported(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("srch3.environments.search.PATIENCE", 0.0)
    run = trainer(SearchEnvironment(show_progress=False), limit_val_batches=0)
    run.fit(ToyModule(), datamodule=ToyData(toy_corpus(20), steps=1))
    assert "environment: encoded 20 documents in 0.0 s (training corpus)" in caplog.text


def test_an_impossible_audit_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="audit_every_n_steps: expected 0 or more; got -1"):
        SearchEnvironment(audit_every_n_steps=-1)
