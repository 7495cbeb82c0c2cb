import copy
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from srch3.errors import ConfigError
from srch3.indexes import ExactIndex, HnswIndex
from tests.indexes.clusters import brute_force, clustered, recall


def test_the_graph_depends_on_the_seed_alone() -> None:
    rows = []
    for seed in (3, 3, 4):
        index = HnswIndex(m=4, ef=10, ef_construction=10, min_recall=0, seed=seed)
        index.build(clustered(800))
        index.update(torch.arange(20), clustered(20, seed=1))
        index.merge()
        rows.append(index._propose(index._coordinates(clustered(50, seed=1)), 10, 10))
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_k_beyond_ef_is_served() -> None:
    vectors = clustered(300)
    index = HnswIndex(ef=5)
    index.build(vectors)
    queries = clustered(10, seed=1)
    assert recall(index.search(queries, 100).rows, brute_force(vectors, queries, 100)) >= 0.98


@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4])
def test_collapsed_embeddings_are_still_found(spread: float) -> None:
    point = clustered(1, seed=9)
    collapsed, near = (normalize(point + spread * clustered(n, seed=s), dim=1) for n, s in ((1500, 0), (30, 1)))
    index, exact = HnswIndex(), ExactIndex()
    index.build(collapsed)
    exact.build(collapsed)
    worst = exact.search(near, 100).scores[:, -1:]
    assert float((index.search(near, 100).scores >= worst).float().mean()) >= 0.98
    assert index.health()["exact_fallback"] == 0


def test_identical_embeddings_do_not_fail() -> None:
    index = HnswIndex()
    index.build(clustered(1).repeat(200, 1))
    hits = index.search(clustered(1), 200)
    assert hits.rows[0].tolist() == list(range(200))


class Stubborn:
    """A graph that answers only from a certain ``ef`` on."""

    def __init__(self, graph: Any, least: float) -> None:
        self.graph, self.least, self.ef = graph, least, 0
        self.tried: list[int] = []

    def set_ef(self, ef: int) -> None:
        self.ef = ef
        self.tried.append(ef)
        self.graph.set_ef(ef)

    def knn_query(self, *args: Any, **settings: Any) -> Any:
        if self.ef < self.least:
            raise RuntimeError("Cannot return the results in a contiguous 2D array. Probably ef or M is too small")
        return self.graph.knn_query(*args, **settings)

    def get_current_count(self) -> int:
        return int(self.graph.get_current_count())


@pytest.mark.parametrize(
    ("least", "tried"), [(0, [20]), (100, [20, 160]), (200, [20, 160, 500]), (1e9, [20, 160, 500])]
)
def test_a_graph_that_cannot_answer_is_asked_harder_and_then_passed_over(least: float, tried: list[int]) -> None:
    vectors, queries = clustered(500), clustered(5, seed=1)
    index = HnswIndex(ef=20, min_recall=0)
    index.build(vectors)
    index.search(queries, 10)
    index._graph = graph = Stubborn(index._graph, least)
    hits = index.search(queries, 10)
    assert graph.tried == tried
    assert recall(hits.rows, brute_force(vectors, queries, 10)) >= 0.9


def test_a_copy_of_an_empty_index_is_independent() -> None:
    prototype = HnswIndex(ef=40)
    first, second = copy.deepcopy(prototype), copy.deepcopy(prototype)
    first.build(clustered(10))
    second.build(clustered(20))
    assert (len(prototype), len(first), len(second)) == (0, 10, 20)
    assert second.ef == 40


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"m": 1}, "index.init_args.m: expected at least 2; got 1"),
        ({"ef_construction": 0}, "index.init_args.ef_construction: expected at least 1; got 0"),
        ({"ef": 0}, "index.init_args.ef: expected at least 1; got 0"),
        ({"threads": 0}, "index.init_args.threads: expected at least 1; got 0"),
        ({"overlay_share": 1.5}, "index.init_args.overlay_share: expected a share from 0 to 1; got 1.5"),
        ({"min_recall": float("nan")}, "index.init_args.min_recall: expected a share from 0 to 1; got nan"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HnswIndex(**settings)
