"""The model through mteb's own evaluation, on a task that needs no hub; its numbers are those of our metrics."""

import math
import random
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
import torch
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.cache import ResultCache
from mteb.models import EncoderProtocol, ModelMeta, SearchProtocol
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer

from srch3.errors import DataError
from srch3.indexes import HnswIndex
from srch3.inference.embedder import Embedder
from srch3.inference.exporting import export_model
from srch3.inference.mteb import MtebEncoder, MtebSearch
from srch3.metrics.evaluation import evaluate_run, means
from tests.inference.runs_of_training import make_run
from tests.toy import WORDS

METRICS = ["ndcg@10", "mrr@10", "map@10", "recall@10", "precision@5"]
THEIRS = ["ndcg_at_10", "mrr_at_10", "map_at_10", "recall_at_10", "precision_at_5"]


class LocalRetrieval(AbsTaskRetrieval):
    metadata = TaskMetadata(
        name="LocalRetrieval",
        description="Documents of five words, asked for by two of them.",
        reference=None,
        dataset={"path": "local", "revision": "1"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )

    def __init__(self, top_ranked: bool = False, instructions: bool = False) -> None:
        super().__init__()
        draw = random.Random(0)
        texts = [draw.sample(WORDS, 5) for _ in range(40)]
        corpus = [{"id": f"d{row}", "title": words[0], "text": " ".join(words[1:])} for row, words in enumerate(texts)]
        queries = [{"id": f"q{row}", "text": f"{words[1]} {words[3]}"} for row, words in enumerate(texts[:15])]
        if instructions:
            queries = [{**query, "instruction": "find code"} for query in queries]
        judged = {f"q{row}": {f"d{row}": 2, f"d{row + 1}": 1} for row in range(15)}
        ranked = {f"q{row}": [f"d{place}" for place in range(row, row + 20)] for row in range(15)}
        self.corpus, self.queries, self.judged, self.ranked = corpus, queries, judged, ranked
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list(corpus),
                    "queries": Dataset.from_list(queries),
                    "relevant_docs": judged,
                    "top_ranked": ranked if top_ranked else None,
                }
            }
        }
        self.data_loaded = True

    def run_of(self, embedder: Embedder, mode: str, among: dict[str, list[str]] | None = None) -> dict[str, Any]:
        """What our own embeddings find, exhaustively."""
        documents = embedder.encode_documents([f"{row['title']} {row['text']}" for row in self.corpus])
        asked = [" ".join(filter(None, [row["text"], row.get("instruction")])) for row in self.queries]
        cosines = embedder.encode_queries(asked, mode) @ documents.T
        ids = [row["id"] for row in self.corpus]
        return {
            query["id"]: {
                name: float(cosine)
                for name, cosine in zip(ids, row, strict=True)
                if among is None or name in among[query["id"]]
            }
            for query, row in zip(self.queries, cosines, strict=True)
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mteb")
    checkpoint, _ = make_run(place)
    return export_model(checkpoint, place / "out").folder


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Embedder:
    return Embedder.load(folder, "cpu", "float32")


def figures(model: Any, task: AbsTaskRetrieval, cache: ResultCache | None = None) -> dict[str, float]:
    result = mteb.evaluate(model, task, cache=cache, show_progress_bar=False, co2_tracker=False)
    (scores,) = result.task_results[0].scores["test"]
    return {ours: scores[theirs] for ours, theirs in zip(METRICS, THEIRS, strict=True)}


@pytest.mark.parametrize("instructions", [False, True])
@pytest.mark.parametrize("mode", ["thinking", "direct"])
def test_encoder_and_search_score_as_our_metrics_do(embedder: Embedder, mode: str, instructions: bool) -> None:
    task = LocalRetrieval(instructions=instructions)
    expected = means(evaluate_run(task.run_of(embedder, mode), task.judged, METRICS))
    assert 0 < expected["ndcg@10"] < 1
    for model in (MtebEncoder(embedder, mode=mode), MtebSearch(embedder, mode=mode)):
        assert figures(model, task) == pytest.approx(expected, abs=1e-5)


def test_an_index_of_choice_searches(embedder: Embedder) -> None:
    task = LocalRetrieval()
    model = MtebSearch(embedder, searched=HnswIndex())
    assert figures(model, task) == pytest.approx(figures(MtebSearch(embedder), task), abs=1e-5)


def test_candidates_given_by_a_task_are_ranked_alone(embedder: Embedder) -> None:
    task = LocalRetrieval(top_ranked=True)
    expected = means(evaluate_run(task.run_of(embedder, "direct", task.ranked), task.judged, METRICS))
    whole = means(evaluate_run(task.run_of(embedder, "direct"), task.judged, METRICS))
    assert expected["ndcg@10"] != pytest.approx(whole["ndcg@10"], abs=1e-3)
    for model in (MtebEncoder(embedder, mode="direct"), MtebSearch(embedder, mode="direct")):
        assert figures(model, task) == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore:The fill_missing parameter:DeprecationWarning")  # of mteb, to itself
@pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension` method:FutureWarning")
def test_the_exported_folder_scores_the_same_through_sentence_transformers(folder: Path, embedder: Embedder) -> None:
    plain = figures(SentenceTransformer(str(folder), device="cpu"), LocalRetrieval())
    assert plain == pytest.approx(figures(MtebEncoder(embedder, mode="direct"), LocalRetrieval()), abs=1e-5)


def test_mteb_sees_an_encoder_with_a_real_meta(folder: Path, embedder: Embedder) -> None:
    model = MtebEncoder(str(folder), None, device="cpu", name="us/ours")
    assert isinstance(model, EncoderProtocol)
    assert isinstance(MtebSearch(embedder), SearchProtocol)
    meta = model.mteb_model_meta
    assert isinstance(meta, ModelMeta)
    assert (meta.name, meta.revision, meta.embed_dim, meta.max_tokens) == ("us/ours", embedder.revision, 32, 24)
    assert meta.n_parameters == sum(p.numel() for p in embedder.backbone.parameters())
    assert meta.experiment_kwargs is not None
    assert meta.experiment_kwargs["mode"] == "thinking"


def test_the_cache_never_answers_for_other_weights_or_another_mode(embedder: Embedder, tmp_path: Path) -> None:
    cache = ResultCache(tmp_path / "cache")
    _, other = make_run(tmp_path, scale=0.2)
    models = [
        MtebEncoder(embedder, mode="direct"),
        MtebEncoder(embedder, mode="thinking"),
        MtebEncoder(Embedder(other, device="cpu", precision="float32"), mode="direct"),
    ]
    fresh = [figures(model, LocalRetrieval()) for model in models]
    assert len({figure["ndcg@10"] for figure in fresh}) == 3
    for _ in range(2):
        for model, figure in zip(models, fresh, strict=True):
            assert figures(model, LocalRetrieval(), cache) == pytest.approx(figure, abs=1e-5)


def test_batches_come_back_in_order_and_by_role(embedder: Embedder) -> None:
    model = MtebEncoder(embedder)
    texts = ["read a file", "x", "parse the date string " * 5, "a"]
    batches = [{"text": texts[:3], "id": ["1", "2", "3"]}, {"text": texts[3:], "id": ["4"]}]
    where: dict[str, Any] = {"task_metadata": None, "hf_split": "test", "hf_subset": "default", "batch_size": 2}
    asked = model.encode(batches, prompt_type=PromptType.query, **where)
    np.testing.assert_allclose(asked, embedder.encode_queries(texts), atol=1e-6)
    assert asked.dtype == np.float32
    for kind in (PromptType.document, None):
        found = model.encode(batches, prompt_type=kind, **where)
        np.testing.assert_allclose(found, embedder.encode_documents(texts), atol=1e-6)
    with pytest.raises(DataError, match="expected batches with text; got image"):
        model.encode([{"image": []}], **where)


def test_similarities_are_cosines(embedder: Embedder) -> None:
    model = MtebEncoder(embedder)
    one, other = np.array([[3.0, 4.0], [0.0, 2.0]], np.float32), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    half = math.sqrt(0.5)
    expected = [[0.6, 1.4 * half], [0.0, half]]
    torch.testing.assert_close(model.similarity(one, other), torch.tensor(expected))
    torch.testing.assert_close(model.similarity_pairwise(one, other), torch.tensor([0.6, half]))
    torch.testing.assert_close(model.similarity(one[0], other[0]), torch.tensor([[0.6]]))


def test_searching_before_indexing_and_conversations_are_refused(embedder: Embedder) -> None:
    model = MtebSearch(embedder)
    queries = Dataset.from_list([{"id": "q", "text": ["a", "b"]}])
    with pytest.raises(DataError, match="expected index"):
        model.search(queries, top_k=3)
    model.index(Dataset.from_list([{"id": "d", "text": "a"}]))
    with pytest.raises(DataError, match="got conversations"):
        model.search(queries, top_k=3)
