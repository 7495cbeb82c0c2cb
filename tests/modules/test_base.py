from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srch3.backbones import LoRA, ReasoningEmbedder, generate
from srch3.environments import SearchEnvironment
from srch3.losses import InfoNCE
from srch3.modules import SFTModule
from srch3.types import Hits, Searches
from tests.toy import ToyDataModule, quiet_trainer, toy_embedder

TEXTS = ["parse a date", "file", "sort and merge lists"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> ReasoningEmbedder:
    embedder = toy_embedder(tmp_path_factory.mktemp("model"), max_thought_tokens=8)
    embedder.build()
    return embedder


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


class Frozen(SFTModule):
    """Learns thoughts alone."""

    fixed_documents = frozen_embedder = True


def test_a_frozen_embedder_reads_with_the_weights_that_it_began_with(tmp_path: Path) -> None:
    model = Frozen(toy_embedder(tmp_path))
    model.configure_model()
    modes = ["thinking", "direct", "mean-2"]
    documents, before = model.encode_documents(TEXTS), model.embed_queries(TEXTS, modes)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    model.configure_model()
    after = model.embed_queries(TEXTS, modes)
    close(model.encode_documents(TEXTS), documents)
    close(after["direct"].embeddings, before["direct"].embeddings)
    assert after["thinking"].thoughts != before["thinking"].thoughts
    prompts = model.backbone.tokenize(TEXTS, "thinking")
    with model.inference():
        completions = generate(model.backbone, prompts, temperature=0.0).completions.inputs
        with model.backbone.as_remembered():
            read = model.backbone.embed([[*p, *some] for p, some in zip(prompts, completions, strict=True)])
    close(after["thinking"].embeddings, read)


class Counting(SearchEnvironment):
    """Keeps what each search found."""

    def __init__(self) -> None:
        super().__init__(show_progress=False)
        self.found: list[tuple[Hits, int | None]] = []

    def search(self, queries: Tensor, k: int, split: Any, width: int | None = None) -> Hits:
        hits = super().search(queries, k, split, width)
        self.found.append((hits, width))
        return hits


@contextmanager
def kept_outputs(model: SFTModule) -> Iterator[list[Searches]]:
    outputs: list[Searches] = []
    step = model.validation_step
    model.validation_step = lambda *args: outputs.append(step(*args))  # type: ignore[method-assign, assignment, func-returns-value]
    yield outputs
    model.validation_step = step  # type: ignore[method-assign]


def test_every_mode_is_measured_and_the_first_ones_searches_are_returned(
    backbone: ReasoningEmbedder, tmp_path: Path
) -> None:
    environment = Counting()
    modes = ["budget-2", "thinking", "mean-3", "copied", "shuffled"]
    model = SFTModule(backbone, modes=modes, hits=40, info_nce=InfoNCE(widths=[8]))
    data = ToyDataModule(eval_batch_size=40)
    with kept_outputs(model) as outputs:
        logged = quiet_trainer(tmp_path, callbacks=[environment]).validate(model, data, verbose=False)[0]
    assert {f"val/{mode}/ndcg@10" for mode in modes} | {f"val/{mode}@8/ndcg@10" for mode in modes} <= set(logged)
    assert logged["val/ndcg@10"] == logged["val/budget-2/ndcg@10"]
    assert len({logged[f"val/{mode}/recall@100"] for mode in modes}) == 1  # all 40 documents
    (output,) = outputs
    assert [width for _, width in environment.found] == [None, 8] * len(modes)
    assert torch.equal(output.hits.rows, environment.found[0][0].rows)
    assert output.document_ids[3] == [f"d{row}" for row in output.hits.rows[3].tolist()]
    queries = data.queries("val")
    assert output.ids == [query.id for query in queries]
    embedded = model.embed_queries([query.text for query in queries], ["budget-2"])["budget-2"]
    assert output.thoughts == embedded.thoughts


@pytest.mark.parametrize("mode", ["mean-2", "budget-3", "copied"])
def test_evaluations_repeat_exactly_whatever_the_batch(mode: str, backbone: ReasoningEmbedder, tmp_path: Path) -> None:
    def measured(size: int) -> Any:
        torch.manual_seed(size)
        model = SFTModule(backbone, modes=[mode], hits=40)
        trainer = quiet_trainer(tmp_path, callbacks=[SearchEnvironment(show_progress=False)])
        tested = trainer.test(model, ToyDataModule(eval_batch_size=size), verbose=False)[0]
        predicted: Any = trainer.predict(model, ToyDataModule(eval_batch_size=size))
        return tested, [thought for batch in predicted for thought in batch.thoughts]

    (one, thoughts), (two, others) = measured(40), measured(7)
    assert one == pytest.approx(two, abs=1e-5)
    assert thoughts == others


def test_predictions_begin_with_the_first_query(backbone: ReasoningEmbedder, tmp_path: Path) -> None:
    model = SFTModule(backbone, modes=["shuffled"], hits=40)
    trainer = quiet_trainer(tmp_path, callbacks=[SearchEnvironment(show_progress=False)])
    once, again = (trainer.predict(model, ToyDataModule(eval_batch_size=30)) for _ in range(2))
    assert once is not None
    assert again is not None
    assert once[0].thoughts == again[0].thoughts  # type: ignore[union-attr]


def test_adapters_are_no_obstacle(tmp_path: Path) -> None:
    model = SFTModule(toy_embedder(tmp_path, lora=LoRA(r=2)), modes=["mean-2", "budget-1"])
    model.configure_model()
    assert model(["file"], mode="budget-1").shape == model(["file"], mode="mean-2").shape == (1, 32)
