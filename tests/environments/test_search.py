import warnings
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from srch3.data import Corpus
from srch3.data.changing import ChangingCorpus
from srch3.environments import (
    FullRefresh,
    NoCorrection,
    NoRefresh,
    OldestRefresh,
    RandomRefresh,
    SearchEnvironment,
    TimeBudget,
)
from srch3.errors import ConfigError, NumericError
from srch3.indexes import BaseIndex, ExactIndex, HnswIndex
from srch3.types import Split
from tests.environments.toy import ToyData, ToyModule, toy_corpus, trainer
from tests.indexes.clusters import clustered

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
    assert environment.state_dict() == {"index": False}


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

    for refresh in (None, RandomRefresh(), NoRefresh()):
        with pytest.raises(NumericError, match=r"(vectors|queries|encode_documents): expected finite numbers; got NaN"):
            trainer(SearchEnvironment(refresh=refresh)).fit(Diverging(), datamodule=ToyData(toy_corpus(20)))


def test_a_long_encoding_is_reported(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("srch3.environments.encoding.PATIENCE", 0.0)
    run = trainer(SearchEnvironment(show_progress=False), limit_val_batches=0)
    run.fit(ToyModule(), datamodule=ToyData(toy_corpus(20), steps=1))
    assert "environment: encoded 20 documents in 0.0 s (training corpus)" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("audit_every_n_steps", -1, 0), ("drift_every_n_steps", -2, 0), ("drift_documents", 0, 1)],
)
def test_impossible_schedules_are_refused(name: str, value: int, least: int) -> None:
    message = f"environment.init_args.{name}: expected {least} or more; got {value}"
    with pytest.raises(ConfigError, match=message):
        SearchEnvironment(**{name: value})  # type: ignore[arg-type]


class Fixed(ToyModule):
    fixed_documents = True


def test_fixed_documents_are_encoded_once_and_log_nothing() -> None:
    model = Fixed()
    run = trainer(SearchEnvironment(), max_epochs=2)
    run.fit(model, datamodule=ToyData(toy_corpus(30)))
    assert model.encoded == [30]
    assert not any(key.startswith("env/") for key in run.callback_metrics)


@pytest.mark.parametrize("name", ["audit_every_n_steps", "drift_every_n_steps"])
def test_measuring_fixed_documents_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected 0 where the model keeps documents fixed, got 2; their"):
        trainer(SearchEnvironment(**{name: 2})).fit(Fixed(), datamodule=ToyData(toy_corpus(30)))  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["fit", "validate", "test"])
def test_documents_may_be_removed_before_anything_is_encoded(what: str) -> None:
    toy = toy_corpus(30)
    corpus = ChangingCorpus(Corpus(toy.ids, toy.texts))
    corpus.remove(["d20"])
    environment = SearchEnvironment()
    run = L.Trainer(
        accelerator="cpu", devices=1, callbacks=[environment], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, max_epochs=1, num_sanity_val_steps=1,
    )  # fmt: skip
    getattr(run, what)(Steady(), datamodule=ToyData(corpus, steps=3))
    state = environment._states[0]
    assert state.searchable
    assert state.alive.tolist() == [row != 20 for row in range(30)]
    assert 20 not in state.searcher.search(clustered(4, 8), 30).rows


class Steady(ToyModule):
    """Trains on documents that are there alone."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.embed(["1 2 3"]).sum()


def test_the_time_of_a_step_is_that_of_all_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[tuple[int, float, float]] = []
    monkeypatch.setattr(TimeBudget, "spent", lambda self, *given: spent.append(given))
    run = trainer(SearchEnvironment(budget=TimeBudget()), accumulate_grad_batches=3)
    run.fit(ToyModule(), datamodule=ToyData(toy_corpus(40), steps=6))
    assert len(spent) == run.global_step == 2
    assert [documents for documents, *_ in spent] == [0, 40]
    for _, refresh, step in spent:
        assert 0 < refresh < step


def test_a_correction_that_would_learn_from_the_oldest_alone_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"init_args.refresh: expected a sweep of at most 0.5 .* 1 of OldestRefresh"):
        SearchEnvironment(refresh=OldestRefresh())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SearchEnvironment(refresh=OldestRefresh(), correction=NoCorrection())
        SearchEnvironment(refresh=FullRefresh())
        SearchEnvironment()
