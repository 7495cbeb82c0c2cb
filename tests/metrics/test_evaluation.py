import math
import random
from collections.abc import Mapping

import pytest
import pytrec_eval

from srch3.errors import ConfigError
from srch3.metrics.evaluation import METRICS, evaluate_run, means, parse_metric, ranked
from srch3.metrics.trec_files import Qrels, Run

NAMES = {
    "ndcg@1": "ndcg_cut_1",
    "ndcg@10": "ndcg_cut_10",
    "ndcg@100": "ndcg_cut_100",
    "ndcg": "ndcg",
    "mrr": "recip_rank",
    "map": "map",
    "map@10": "map_cut_10",
    "recall@5": "recall_5",
    "recall@100": "recall_100",
    "recall": "set_recall",
    "precision@1": "P_1",
    "precision@10": "P_10",
    "success@1": "success_1",
    "success@10": "success_10",
}


def trec_eval(run: Run, qrels: Qrels, measures: list[str]) -> dict[str, dict[str, float]]:
    """What pytrec_eval says of each judged query, with zeros for those that it leaves out, by measure."""
    found = pytrec_eval.RelevanceEvaluator(qrels, set(measures)).evaluate(run)
    nothing = dict.fromkeys(measures, 0.0)
    return {name: {query: found.get(query, nothing)[name] for query in qrels} for name in measures}


def random_case(seed: int) -> tuple[Run, Qrels]:
    """Graded and negative judgements, ties, ties in single precision alone, missing and unjudged queries."""
    draw = random.Random(seed)
    documents = [f"d{number}" for number in range(draw.choice([5, 40, 300]))] + ["D", "é", "z\U0001f600", "d-1"]
    queries = [f"q{number}" for number in range(30)]
    qrels = {
        query: {
            name: draw.choice([-1, 0, 0, 1, 1, 2, 7])
            for name in draw.sample(documents, draw.randint(1, len(documents)))
        }
        for query in queries[:25]
    }
    scores = [
        [1.0, 0.5, 0.0, -2.0],
        [1 + draw.random() * 1e-8 for _ in range(9)],
        [draw.gauss(0, 1) for _ in range(999)],
    ]
    run = {
        query: {name: draw.choice(scores[seed % 3]) for name in draw.sample(documents, draw.randint(1, len(documents)))}
        for query in queries[5:]
    }
    return run, qrels


@pytest.mark.parametrize("seed", range(12))
def test_every_metric_of_every_query_equals_trec_evals(seed: int) -> None:
    run, qrels = random_case(seed)
    expected = trec_eval(run, qrels, list(NAMES.values()))
    measured = evaluate_run(run, qrels, list(NAMES))
    for name, trec_name in NAMES.items():
        assert list(measured[name]) == list(qrels)
        assert measured[name] == pytest.approx(expected[trec_name], abs=1e-12), name
    assert means(measured)["ndcg@10"] == pytest.approx(sum(expected["ndcg_cut_10"].values()) / 25, abs=1e-12)
    assert 0 < means(measured)["ndcg@10"] < 1


@pytest.mark.parametrize("depth", [1, 3, 10])
def test_the_reciprocal_rank_with_a_depth_is_that_of_the_cut_run(depth: int) -> None:
    run, qrels = random_case(2)
    cut = {query: {name: found[name] for name in ranked(found)[:depth]} for query, found in run.items()}
    expected = trec_eval(cut, qrels, ["recip_rank"])["recip_rank"]
    assert evaluate_run(run, qrels, [f"mrr@{depth}"])[f"mrr@{depth}"] == pytest.approx(expected, abs=1e-12)


def test_metrics_by_hand() -> None:
    run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0}}
    measured = evaluate_run(
        run, {"q": {"b": 2, "d": 1, "x": 1, "a": -3}}, ["ndcg@2", "ndcg", "mrr@1", "mrr@2", "map", "recall@3"]
    )
    ideal = 2 + 1 / math.log2(3)
    by_hand = {
        "ndcg@2": (2 / math.log2(3)) / ideal,
        "ndcg": (2 / math.log2(3) + 1 / math.log2(5)) / (ideal + 0.5),
        "mrr@1": 0.0,
        "mrr@2": 0.5,
        "map": (1 / 2 + 2 / 4) / 3,
        "recall@3": 1 / 3,
    }
    assert means(measured) == pytest.approx(by_hand, abs=1e-15)


def test_precision_counts_places_that_a_short_run_leaves_empty() -> None:
    assert evaluate_run({"q": {"a": 1.0}}, {"q": {"a": 1}}, ["precision@4"])["precision@4"]["q"] == 0.25


def test_means_are_over_all_judged_queries_and_no_other() -> None:
    run = {"found": {"a": 1.0}, "empty": {}, "hopeless": {"a": 1.0}, "unjudged": {"a": 1.0}}
    qrels = {"found": {"a": 1}, "empty": {"a": 1}, "absent": {"a": 1}, "hopeless": {"a": 0}}
    measured = evaluate_run(run, qrels, METRICS)
    assert set(measured) == set(METRICS)
    assert measured["ndcg@10"] == {"found": 1.0, "empty": 0.0, "absent": 0.0, "hopeless": 0.0}
    assert means(measured)["recall@100"] == 0.25


def test_queries_that_crash_trec_eval_score_zero() -> None:
    assert evaluate_run({"q": {"a": 1.0}}, {"q": {"a": -2}}, ["ndcg@1", "map"]) == {"ndcg@1": {"q": 0}, "map": {"q": 0}}
    assert evaluate_run({"q": {"a": 1.0}}, {"q": {"a": 10**12}}, ["ndcg@1"]) == {"ndcg@1": {"q": 1.0}}


@pytest.mark.parametrize(
    ("scores", "order"),
    [
        ({"a": 1.0, "b": 2.0}, "ba"),
        ({"b": 1.0, "a": 1.0, "c": 1.0}, "cba"),
        ({"a": 1.0 + 1e-9, "b": 1.0}, "ba"),
        ({"a": 1e300, "b": 1e200, "c": 1.0}, "bac"),
        ({"a": -math.inf, "b": -1e38}, "ba"),
        ({}, ""),
    ],
)
def test_order_is_by_single_precision_and_then_by_descending_id(scores: Mapping[str, float], order: str) -> None:
    assert "".join(ranked(scores)) == order


@pytest.mark.parametrize("name", ["ndcg@0", "ndcg@-1", "NDCG@10", "bpref", "ndcg10", "precision", "success", "@3", ""])
def test_unknown_metrics_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"metrics: expected some of ndcg@K, mrr@K, .* such as ndcg@10; got "):
        parse_metric(name)


def test_a_metric_falls_into_its_parts() -> None:
    assert parse_metric("ndcg@10") == ("ndcg@10", "ndcg", 10)
    assert parse_metric("map") == ("map", "map", None)
