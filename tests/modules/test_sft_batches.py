"""How stage 1 treats a batch: several positives, weights, gradient caching, thought dropout, overlong texts."""

from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from srch3.backbones import LoRA, caching
from srch3.environments import SearchEnvironment
from srch3.errors import ConfigError, DataError
from srch3.losses import BaseKL, CrossEntropy, InfoNCE, TripletMargin
from srch3.modules import SFTModule
from srch3.types import TrainBatch
from tests.toy import ToyDataModule, quiet_trainer, toy_embedder

WORDS = ["parse", "date", "open", "file", "sort", "list", "merge", "split", "hash", "key", "node", "edge", "queue"]


def batch_of(count: int) -> TrainBatch:
    """Queries with one to three positives and none to two negatives, of different lengths and importance."""
    texts = [" ".join(WORDS[(start + step) % len(WORDS)] for step in range(1 + start % 7)) for start in range(90)]
    texts = [f"{text} {number}" for number, text in enumerate(texts)]
    positives = [[f"p{query}.{number}" for number in range(1 + query % 3)] for query in range(count)]
    negatives = [[f"n{query}.{number}" for number in range(query % 3)] for query in range(count)]
    text_of = {name: texts[place] for place, name in enumerate(chain.from_iterable(positives + negatives))}
    return TrainBatch(
        ids=[f"q{query}" for query in range(count)],
        texts=[texts[-1 - query] for query in range(count)],
        relevant=[dict.fromkeys([*found, positives[0][0]], 1) for found in positives],
        thoughts=[" ".join(WORDS[: query % 4]) for query in range(count)],
        weights=[1.0 + query % 2 for query in range(count)],
        positive_ids=positives,
        positives=[[text_of[name] for name in names] for names in positives],
        negative_ids=negatives,
        negatives=[[text_of[name] for name in names] for names in negatives],
    )


def shuffled(batch: TrainBatch, order: list[int]) -> TrainBatch:
    return TrainBatch(*([column[row] for row in order] for column in batch))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    toy_embedder(path)
    return path


def module(folder: Path, lora: LoRA | None = None, **settings: Any) -> SFTModule:
    """A model that has moved away from its reference."""
    model = SFTModule(toy_embedder(folder, lora=lora), **settings)
    model.configure_model()
    model.backbone.remember()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.train()


def step(model: SFTModule, batch: TrainBatch) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Terms and gradients of one step."""
    logged: dict[str, Any] = {}
    model.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign, assignment]
    model.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign, assignment]
    model.zero_grad()
    torch.manual_seed(5)
    model.training_step(batch, 0).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: float(torch.as_tensor(value).detach()) for name, value in logged.items()}, gradients


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Equal to 1e-5 of the largest gradient."""
    assert first.keys() == second.keys()
    largest = max(float(gradient.abs().max()) for gradient in first.values())
    for name, gradient in first.items():
        assert float((second[name] - gradient).abs().max()) <= 1e-5 * largest, name


OPTIONS: list[dict[str, Any]] = [
    {},
    {"info_nce": InfoNCE(query_query=True, document_document=True, widths=[4, 16])},
    {"train_modes": ["thinking"]},
    {"train_modes": ["direct"], "false_negative_margin": 0.0},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("cache_tokens", [1, 60, 100_000])
def test_cached_gradients_are_those_of_the_whole_batch(
    folder: Path, cache_tokens: int, options: dict[str, Any]
) -> None:
    batch = batch_of(20)
    terms, gradients = step(module(folder, **options), batch)
    cached_terms, cached = step(module(folder, cache_tokens=cache_tokens, **options), batch)
    assert cached_terms == pytest.approx(terms, abs=1e-5)
    assert_same(gradients, cached)


def test_cached_gradients_replay_the_dropout(folder: Path) -> None:
    """The same passes with and without caching draw the same masks, and dropout is really on."""
    lora = LoRA(r=4, dropout=0.4)
    batch, passes = batch_of(20), 60
    plain = module(folder, lora)
    plain.backbone.tokens_per_batch = passes
    terms, gradients = step(plain, batch)
    cached_terms, cached = step(module(folder, lora, cache_tokens=passes), batch)
    assert cached_terms == pytest.approx(terms, abs=1e-6)
    assert_same(gradients, cached)
    without, _ = step(module(folder, LoRA(r=4)), batch)
    assert abs(without["train/info_nce"] - terms["train/info_nce"]) > 1e-3


def test_one_pass_is_alive_at_a_time(folder: Path) -> None:
    """What the backward pass holds on to does not grow with the batch, but for embeddings and their similarities."""

    def held(batch: TrainBatch, **settings: Any) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        model = module(folder, train_modes=["direct"], **settings)
        kept = {p.data_ptr() for p in model.parameters()}
        model.log = model.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.training_step(batch, 0)
        return sum(size for pointer, size in sizes.items() if pointer not in kept)

    assert held(batch_of(24), cache_tokens=50) < held(batch_of(24)) / 10


def test_neither_the_order_of_a_batch_nor_its_passes_change_anything(folder: Path) -> None:
    batch = batch_of(20)
    terms, gradients = step(module(folder), batch)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    other = module(folder)
    other.backbone.tokens_per_batch = 37
    moved_terms, moved = step(other, shuffled(batch, order))
    assert moved_terms == pytest.approx(terms, abs=1e-5)
    assert_same(gradients, moved)


def test_weights_and_positives_are_those_of_a_slow_loop(folder: Path) -> None:
    batch = batch_of(7)
    model = module(
        folder, train_modes=["direct"], info_nce=InfoNCE(temperature=0.1), triplet_margin=TripletMargin(margin=0.4)
    )
    model.eval()
    terms, _ = step(model, batch)
    nce = triplet = weight = 0.0
    with torch.no_grad():
        documents = sorted({text for texts in [*batch.positives, *batch.negatives] for text in texts})
        vectors = dict(
            zip(documents, model.backbone.embed(model.backbone.tokenize(documents, "document")), strict=True)
        )
        queries = model.backbone.embed(model.backbone.tokenize(batch.texts, "direct"))
        for row, query in enumerate(queries):
            judged = {*batch.positives[row], batch.positives[0][0]}
            negatives = torch.stack([query @ vectors[text] for text in documents if text not in judged])
            for text in batch.positives[row]:
                positive = query @ vectors[text]
                share = batch.weights[row] / len(batch.positives[row])
                nce += share * float(torch.cat([positive[None], negatives]).div(0.1).logsumexp(0) - positive / 0.1)
                triplet += share * max(0.0, float(0.4 - positive + negatives.max()))
            weight += batch.weights[row]
    assert terms["train/info_nce"] == pytest.approx(nce / weight, abs=1e-5)
    assert terms["train/triplet_margin"] == pytest.approx(triplet / weight, abs=1e-5)


def test_an_example_of_weight_two_counts_as_two(folder: Path) -> None:
    batch = shuffled(batch_of(6), [0, 1, 2, 3, 4, 5])._replace(weights=[1.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    twice = shuffled(batch, [0, 1, 1, 2, 3, 4, 5])._replace(weights=[1.0] * 7)
    settings: dict[str, Any] = {"base_kl": BaseKL(0.0)}
    terms, gradients = step(module(folder, **settings), batch)
    terms_of_two, gradients_of_two = step(module(folder, **settings), twice)
    assert terms_of_two == pytest.approx(terms, abs=1e-5)
    assert_same(gradients, gradients_of_two)


class Steps(L.Callback):
    """Keeps which queries thought in each step."""

    def __init__(self) -> None:
        self.thinking: list[set[str]] = []
        self.asked: list[set[str]] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: TrainBatch, batch_idx: int) -> None:
        thinking, direct = module._rows(batch)
        assert {*thinking, *direct} == set(range(len(batch.ids)))
        assert not {*thinking} & {*direct}
        self.thinking.append({batch.ids[row] for row in thinking})
        self.asked.append(set(batch.ids))


def fit(model: SFTModule, root: Path, steps: int, callback: L.Callback, **settings: Any) -> L.Trainer:
    callbacks = [SearchEnvironment(show_progress=False), callback]
    trainer = quiet_trainer(root, max_steps=steps, limit_val_batches=0, callbacks=callbacks)
    trainer.fit(model, datamodule=ToyDataModule(**{"batch_size": 20, **settings}))
    return trainer


def test_thought_dropout_trains_some_queries_directly_and_others_the_next_time(folder: Path, tmp_path: Path) -> None:
    steps = Steps()
    model = SFTModule(toy_embedder(folder), train_modes=["thinking"], thought_dropout=0.3)
    fit(model, tmp_path, 8, steps)
    shares = [len(thinking) / 20 for thinking in steps.thinking]
    assert 0.5 < sum(shares) / 8 < 0.9
    assert steps.thinking[0] != steps.thinking[2] & steps.asked[0]
    again = Steps()
    fit(SFTModule(toy_embedder(folder), train_modes=["thinking"], thought_dropout=0.3), tmp_path, 8, again)
    assert again.thinking == steps.thinking


def test_a_step_may_be_without_any_thought(folder: Path, tmp_path: Path) -> None:
    steps, seen = Steps(), Terms()
    model = SFTModule(toy_embedder(folder), train_modes=["thinking"], thought_dropout=0.95)
    callbacks = [SearchEnvironment(show_progress=False), steps, seen]
    trainer = quiet_trainer(tmp_path, max_steps=6, limit_val_batches=0, callbacks=callbacks)
    trainer.fit(model, datamodule=ToyDataModule(batch_size=2))
    assert not all(steps.thinking)
    assert seen.steps[[bool(thinking) for thinking in steps.thinking].index(False)]["train/cross_entropy"] == 0
    assert all(figures["train/info_nce"] > 0 for figures in seen.steps)


def test_what_is_skipped_counts_in_no_term(folder: Path) -> None:
    batch = batch_of(6)
    changed = batch._replace(
        texts=[*batch.texts[:2], "date " * 300, *batch.texts[3:]],
        thoughts=[*batch.thoughts[:2], "parse parse parse", *batch.thoughts[3:]],
    )
    skipped, gradients = step(module(folder, overlong="skip"), changed)
    other, others = step(module(folder, overlong="skip"), changed._replace(thoughts=batch.thoughts))
    assert skipped == pytest.approx(other, abs=1e-6)
    assert_same(gradients, others)


def test_cached_passes_tell_where_they_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random state of a device is kept only for the devices of tensors that are passed on."""
    seen: list[str] = []

    def watched(function: Any, *inputs: Any, **settings: Any) -> Any:
        seen.extend(tensor.device.type for tensor in inputs)
        return checkpoint(function, *inputs, **settings)

    monkeypatch.setattr(caching, "checkpoint", watched)
    weight = torch.ones(3, requires_grad=True)
    caching.recomputed(lambda: weight * 2, True, torch.device("meta")).sum().backward()
    assert seen == ["meta"]
    assert weight.grad is not None
    assert weight.grad.tolist() == [2, 2, 2]


class Terms(L.Callback):
    """Keeps loss and terms of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def test_terms_are_weighted_by_how_far_training_is(folder: Path, tmp_path: Path) -> None:
    seen = Terms()
    settings: dict[str, Any] = {
        "cross_entropy": CrossEntropy(0.0, final_weight=1.0, ramp=(0.25, 0.75)),
        "base_kl": BaseKL(0.0),
        "triplet_margin": TripletMargin(0.0),
        "info_nce": InfoNCE(1.0, final_weight=0.0),
    }
    fit(SFTModule(toy_embedder(folder), **settings), tmp_path, 8, seen)
    course = [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]
    for done, (figures, writing) in enumerate(zip(seen.steps, course, strict=True)):
        expected = (1 - done / 8) * figures["train/info_nce"] + writing * figures["train/cross_entropy"]
        assert figures["train/loss"] == pytest.approx(expected, abs=1e-5)
        assert figures["train/cross_entropy_weight"] == writing
        assert "train/base_kl_weight" not in figures


def test_a_changing_weight_needs_an_end(folder: Path, tmp_path: Path) -> None:
    model = SFTModule(toy_embedder(folder), schedule="constant", warmup=0.0, base_kl=BaseKL(1.0, final_weight=0.0))
    trainer = quiet_trainer(tmp_path, max_epochs=-1, limit_val_batches=0, callbacks=[SearchEnvironment()])
    with pytest.raises(ConfigError, match=r"final_weight needs an end of training; set trainer\.max_steps"):
        trainer.fit(model, datamodule=ToyDataModule())


def test_truncated_widths_are_measured_too(folder: Path, tmp_path: Path) -> None:
    model = SFTModule(toy_embedder(folder), info_nce=InfoNCE(widths=[2, 8]), modes=["direct"])
    trainer = quiet_trainer(tmp_path, callbacks=[SearchEnvironment(show_progress=False)])
    data = ToyDataModule()
    figures = trainer.validate(model, datamodule=data, verbose=False)[0]
    queries, corpus = data.queries("val"), data.corpus("val")
    asked, found = model([query.text for query in queries], "direct"), model.encode_documents(corpus.texts)
    for width, name in ((2, "direct@2"), (8, "direct@8"), (32, "direct")):
        cosines = torch.nn.functional.normalize(asked[:, :width]) @ torch.nn.functional.normalize(found[:, :width]).T
        ranks = [
            1 + int((row > row[corpus.row(next(iter(query.relevant)))]).sum())
            for row, query in zip(cosines, queries, strict=True)
        ]
        mrr = sum(1 / rank for rank in ranks if rank <= 10) / len(ranks)
        assert figures[f"val/{name}/mrr@10"] == pytest.approx(mrr, abs=1e-6)
    assert figures["val/direct@2/mrr@10"] != figures["val/direct/mrr@10"]
    with pytest.raises(ConfigError, match="widths: expected widths below the model's own, 32; got"):
        SFTModule(toy_embedder(folder), info_nce=InfoNCE(widths=[32])).configure_model()


def test_overlong_texts_are_cut_left_out_or_refused(folder: Path) -> None:
    batch = batch_of(6)
    long = batch._replace(texts=[*batch.texts[:2], "date " * 300, *batch.texts[3:]])
    whole, _ = step(module(folder), long)
    cut, _ = step(module(folder), long._replace(texts=[*batch.texts[:2], "date " * 200, *batch.texts[3:]]))
    assert whole == pytest.approx(cut, abs=1e-6)
    skipped, _ = step(module(folder, overlong="skip"), long)
    nothing, _ = step(module(folder), batch._replace(weights=[*batch.weights[:2], 0.0, *batch.weights[3:]]))
    assert skipped["train/overlong"] == pytest.approx(1 / 6)
    assert skipped["train/info_nce"] == pytest.approx(nothing["train/info_nce"], abs=1e-5)
    message = r"overlong: expected texts within max_query_tokens .* got a longer one in .* query 'q2'"
    with pytest.raises(DataError, match=message):
        step(module(folder, overlong="error"), long)
    document = batch._replace(negatives=[*batch.negatives[:5], ["open " * 400, "key"]])
    with pytest.raises(DataError, match="query 'q5'"):
        step(module(folder, overlong="error"), document)
    step(module(folder, overlong="error"), batch)


def test_settings_out_of_range_are_named(folder: Path) -> None:
    for settings, message in (
        ({"thought_dropout": 1.0}, "thought_dropout: expected a probability from 0 to below 1, got 1.0"),
        ({"thought_dropout": 0.5, "train_modes": ["direct"]}, "thought_dropout: expected thinking among train_modes"),
        ({"cache_tokens": 0}, "cache_tokens: expected at least 1, got 0"),
        ({"false_negative_margin": float("nan")}, "false_negative_margin: expected a finite number >= 0, got nan"),
    ):
        with pytest.raises(ConfigError, match=message):
            SFTModule(toy_embedder(folder), **settings)
