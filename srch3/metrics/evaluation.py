"""The metrics of a run at any depth, equal to trec_eval's, over all judged queries."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np

from srch3.errors import ConfigError

METRICS = (
    "ndcg@1",
    "ndcg@5",
    "ndcg@10",
    "ndcg@100",
    "mrr@10",
    "map@100",
    "recall@5",
    "recall@10",
    "recall@100",
    "precision@1",
    "precision@10",
)
"""What is measured unless other metrics are asked for."""

PerQuery = dict[str, dict[str, float]]
"""Metric, then query id, to value."""

_NAME = re.compile(r"([a-z]+)(?:@([1-9][0-9]*))?")


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name: Such as ``ndcg@10``.
        kind: Its name without the depth.
        depth: Hits that it looks at; None where it looks at all of them.
    """

    name: str
    kind: str
    depth: int | None


class _Ranking(NamedTuple):
    """What a metric looks at.

    Attributes:
        grades: Of the hits that count, best first; those of irrelevant and unjudged ones are 0.
        ideal: Grades of all relevant documents, highest first.
        depth: Hits that would have counted, had there been so many; None where all do.
    """

    grades: Sequence[int]
    ideal: Sequence[int]
    depth: int | None


def parse_metric(name: str) -> Metric:
    """Takes the name of a metric apart.

    Args:
        name: One of ``ndcg``, ``mrr``, ``map``, ``recall``, ``precision`` and ``success``, alone or, as in ``ndcg@10``,
            with a depth; ``precision`` and ``success`` always have one.

    Raises:
        ConfigError: There is no such metric.
    """
    found = _NAME.fullmatch(name)
    if found is None or found[1] not in _KINDS or (found[2] is None and found[1] in _BOUNDED):
        known = ", ".join(f"{kind}@K" for kind in _KINDS)
        raise ConfigError(f"metrics: expected some of {known}, with a number K such as ndcg@10; got {name!r}")
    return Metric(name, found[1], int(found[2]) if found[2] else None)


def evaluate_run(
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    metrics: Sequence[str] = METRICS,
) -> PerQuery:
    """The metrics of each judged query by itself.

    The definitions are those of trec_eval: hits are sorted by their scores in single precision, equal ones by document
    id in descending order. Documents are relevant where their grade is above zero, and nDCG has linear gain. ``mrr@K``
    is ``recip_rank``, but 0 below rank K. A judged query that the run lacks, or that has no relevant document, scores 0
    (``trec_eval -c``); queries that are not judged are ignored.

    Args:
        run: Query id, document id, score.
        qrels: Query id, document id, grade.
        metrics: Their names, as in :func:`parse_metric`.

    Returns:
        Values by metric and query id, in the order of ``qrels``.

    Raises:
        ConfigError: There is no such metric.
    """
    parsed = [parse_metric(name) for name in metrics]
    values: PerQuery = {metric.name: {} for metric in parsed}
    for query, judged in qrels.items():
        grades = [max(judged.get(document, 0), 0) for document in ranked(run.get(query, {}))]
        ideal = sorted((grade for grade in judged.values() if grade > 0), reverse=True)
        for metric in parsed:
            ranking = _Ranking(grades[: metric.depth], ideal, metric.depth)
            values[metric.name][query] = _KINDS[metric.kind](ranking) if ideal else 0.0
    return values


def means(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over its queries."""
    return {name: math.fsum(found.values()) / len(found) for name, found in values.items()}


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Document ids in the order in which trec_eval ranks them.

    Args:
        scores: Document id to score; any finite number, also beyond single precision.
    """
    with np.errstate(over="ignore"):
        single = np.fromiter(scores.values(), np.float64, len(scores)).astype(np.float32)
    pairs = sorted(zip(single.tolist(), scores, strict=True), reverse=True)
    return [document for _, document in pairs]


def _dcg(grades: Sequence[int]) -> float:
    return math.fsum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1) if grade)


def _ndcg(ranking: _Ranking) -> float:
    return _dcg(ranking.grades) / _dcg(ranking.ideal[: ranking.depth])


def _reciprocal_rank(ranking: _Ranking) -> float:
    return next((1 / rank for rank, grade in enumerate(ranking.grades, start=1) if grade), 0.0)


def _average_precision(ranking: _Ranking) -> float:
    ranks = [rank for rank, grade in enumerate(ranking.grades, start=1) if grade]
    return math.fsum(found / rank for found, rank in enumerate(ranks, start=1)) / len(ranking.ideal)


def _recall(ranking: _Ranking) -> float:
    return _found(ranking) / len(ranking.ideal)


def _precision(ranking: _Ranking) -> float:
    return _found(ranking) / cast(int, ranking.depth)


def _success(ranking: _Ranking) -> float:
    return float(_found(ranking) > 0)


def _found(ranking: _Ranking) -> int:
    return sum(grade > 0 for grade in ranking.grades)


_KINDS: dict[str, Callable[[_Ranking], float]] = {
    "ndcg": _ndcg,
    "mrr": _reciprocal_rank,
    "map": _average_precision,
    "recall": _recall,
    "precision": _precision,
    "success": _success,
}
_BOUNDED = {"precision", "success"}
