import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytrec_eval
import torch
from torch import Tensor, distributed, multiprocessing, tensor

from srch3.metrics import RetrievalMetrics, query_scores
from srch3.types import Hits


class Numbered:
    """Documents whose ids are their rows, in letters that do not sort like them."""

    def __init__(self, count: int) -> None:
        self.ids: Sequence[str] = [f"{(row * 7919) % 10007:05d}-{row}" for row in range(count)]
        self.texts: Sequence[str] = self.ids
        self.rows = {document_id: row for row, document_id in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, document_id: str) -> int:
        return self.rows[document_id]


def hits(rows: Tensor) -> Hits:
    return Hits(rows, torch.linspace(0.9, -0.5, rows.shape[1]).expand(rows.shape))


def random_searches(
    queries: int, corpus: Numbered, relevant: int, k: int, seed: int
) -> tuple[Hits, list[dict[str, int]]]:
    """Random rankings, and up to ``relevant`` judged documents of grades 1 to 3, anywhere in the corpus."""
    generator = torch.Generator().manual_seed(seed)
    rankings = torch.stack([torch.randperm(len(corpus), generator=generator)[:k] for _ in range(queries)])
    judgements = []
    for _ in range(queries):
        count = int(torch.randint(1, relevant + 1, (), generator=generator))
        rows = torch.randperm(len(corpus), generator=generator)[:count].tolist()
        grades = torch.randint(1, 4, (count,), generator=generator).tolist()
        judgements.append({corpus.ids[row]: grade for row, grade in zip(rows, grades, strict=True)})
    return hits(rankings), judgements


def trec_scores(found: Hits, judgements: Sequence[Mapping[str, int]], corpus: Numbered) -> dict[str, list[float]]:
    """The same metrics by trec_eval, whose reciprocal rank has no depth and so sees ten hits only."""
    qrels = {str(query): dict(grades) for query, grades in enumerate(judgements)}
    run = {
        str(query): {corpus.ids[row]: float(-place) for place, row in enumerate(rows)}
        for query, rows in enumerate(found.rows.tolist())
    }
    top = {query: {key: score for key, score in scores.items() if score > -10} for query, scores in run.items()}
    full = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100"}).evaluate(run)
    short = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(top)
    return {
        "ndcg@10": [full[query]["ndcg_cut_10"] for query in qrels],
        "mrr@10": [short[query]["recip_rank"] for query in qrels],
        "recall@100": [full[query]["recall_100"] for query in qrels],
    }


def test_metrics_by_hand() -> None:
    corpus = Numbered(4)
    metrics = RetrievalMetrics()
    metrics.update(hits(tensor([[2, 0, 1, 3]])), [{corpus.ids[0]: 2, corpus.ids[3]: 1}], corpus)
    dcg = 2 / math.log2(3) + 1 / math.log2(5)
    ideal = 2 + 1 / math.log2(3)
    measured = {name: value.item() for name, value in metrics.compute().items()}
    assert measured == pytest.approx({"ndcg@10": dcg / ideal, "mrr@10": 0.5, "recall@100": 1.0})


@pytest.mark.parametrize(
    ("documents", "relevant", "k"),
    [
        (500, 5, 100),
        (500, 300, 100),
        (500, 5, 150),
        (60, 40, 60),
        (7, 7, 7),
        (1, 1, 1),
        (101, 101, 100),
        (2000, 1, 100),
    ],
)
def test_metrics_equal_those_of_trec_eval(documents: int, relevant: int, k: int) -> None:
    corpus = Numbered(documents)
    found, judgements = random_searches(60, corpus, relevant, k, seed=documents + relevant)
    expected = trec_scores(found, judgements, corpus)
    metrics = RetrievalMetrics()
    for start in range(0, 60, 16):
        part = slice(start, start + 16)
        metrics.update(Hits(found.rows[part], found.scores[part]), judgements[part], corpus)
    means = metrics.compute()
    for name, values in query_scores(found, judgements, corpus).items():
        torch.testing.assert_close(values, tensor(expected[name]), atol=1e-6, rtol=0)
        assert means[name].item() == pytest.approx(sum(expected[name]) / 60, abs=1e-6)


def test_a_query_whose_documents_are_not_found_counts_as_zero() -> None:
    corpus = Numbered(300)
    found = hits(torch.arange(100).expand(2, 100))
    metrics = RetrievalMetrics()
    metrics.update(found, [{corpus.ids[200]: 1}, {corpus.ids[0]: 1}], corpus)
    assert {name: value.item() for name, value in metrics.compute().items()} == dict.fromkeys(metrics.means, 0.5)


def test_queries_that_are_not_judged_are_left_out() -> None:
    corpus = Numbered(5)
    metrics = RetrievalMetrics()
    metrics.update(hits(torch.arange(5).expand(2, 5)), [{}, {corpus.ids[1]: 1}], corpus)
    metrics.update(hits(torch.arange(5).expand(1, 5)), [{}], corpus)
    assert metrics.compute()["mrr@10"].item() == 0.5


def test_order_decides_even_where_scores_tie() -> None:
    corpus = Numbered(3)
    tied = Hits(tensor([[2, 1, 0]]), torch.zeros(1, 3))
    assert query_scores(tied, [{corpus.ids[1]: 1}], corpus)["mrr@10"].tolist() == [0.5]


def test_too_few_hits_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 100 per query; got 10"):
        query_scores(hits(torch.arange(10).expand(1, 10)), [{}], Numbered(200))


def test_a_query_without_judgements_in_its_place_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        query_scores(hits(torch.arange(3).expand(2, 3)), [{}], Numbered(3))


def test_scores_of_no_queries_are_empty() -> None:
    scores = query_scores(hits(torch.empty(0, 3, dtype=torch.long)), [], Numbered(3))
    assert [values.shape for values in scores.values()] == [(0,)] * 3


def test_reset_forgets() -> None:
    corpus = Numbered(3)
    metrics = RetrievalMetrics()
    metrics.update(hits(tensor([[2, 1, 0]])), [{corpus.ids[0]: 1}], corpus)
    metrics.reset()
    metrics.update(hits(tensor([[0, 1, 2]])), [{corpus.ids[0]: 1}], corpus)
    assert metrics.compute()["mrr@10"].item() == 1


def test_metrics_leave_no_trace_in_a_checkpoint() -> None:
    assert not RetrievalMetrics().state_dict()


@contextmanager
def training_in_bfloat16() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def test_metrics_are_as_precise_while_new_tensors_are_bfloat16() -> None:
    corpus = Numbered(50)
    found, judgements = random_searches(20, corpus, 9, 50, seed=0)
    expected = query_scores(found, judgements, corpus)["ndcg@10"].mean().item()
    with training_in_bfloat16():
        metrics = RetrievalMetrics()
        metrics.update(found, judgements, corpus)
        assert torch.get_default_dtype() is torch.bfloat16
        assert metrics.compute()["ndcg@10"].item() == pytest.approx(expected, abs=1e-6)


def test_metrics_work_under_deterministic_algorithms() -> None:
    corpus = Numbered(50)
    found, judgements = random_searches(8, corpus, 9, 50, seed=1)
    expected = query_scores(found, judgements, corpus)
    torch.use_deterministic_algorithms(True)
    try:
        measured = query_scores(found, judgements, corpus)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(measured, expected)


def test_four_thousand_queries_take_seconds() -> None:
    corpus = Numbered(1000)
    found, judgements = random_searches(400, corpus, 3, 100, seed=2)
    metrics = RetrievalMetrics()
    started = time.process_time()
    metrics.update(found, judgements, corpus)
    metrics.compute()
    assert time.process_time() - started < 1.0  # a tenth of the queries


def evaluate_share(rank: int, folder: Path) -> None:
    """One of two processes; the first has three batches, the second a single one."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    corpus = Numbered(200)
    found, judgements = random_searches(9, corpus, 5, 100, seed=3)
    metrics = RetrievalMetrics()
    for query in range(0, 7, 3) if rank == 0 else [7]:
        part = slice(query, min(query + 3, 7) if rank == 0 else 9)
        metrics.update(Hits(found.rows[part], found.scores[part]), judgements[part], corpus)
    torch.save(metrics.compute(), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_unequal_shares_agree_with_one(tmp_path: Path) -> None:
    multiprocessing.spawn(evaluate_share, (tmp_path,), nprocs=2)
    corpus = Numbered(200)
    found, judgements = random_searches(9, corpus, 5, 100, seed=3)
    expected = {name: values.mean() for name, values in query_scores(found, judgements, corpus).items()}
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected, atol=1e-6, rtol=0)
