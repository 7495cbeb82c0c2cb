import copy
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from srch3.errors import CheckpointError, ConfigError
from srch3.indexes import HnswIndex
from tests.indexes.clusters import brute_force, clustered, recall


def test_recall_at_ten_stays_high_through_updates_in_place() -> None:
    vectors = clustered(3000, clusters=60)
    index = HnswIndex(rebuild_share=1.0)
    index.build(vectors)
    queries = clustered(100, clusters=60, seed=1)
    assert recall(index.search(queries, 10).rows, brute_force(vectors, queries, 10)) >= 0.98
    for seed in range(2, 7):
        rows = torch.randperm(3000, generator=torch.Generator().manual_seed(seed))[:150]
        drift = normalize(vectors[rows] + 0.3 * clustered(150, clusters=60, seed=seed), dim=1)
        vectors[rows] = drift
        index.update(rows, drift)
    assert 0.2 < index.changed_share < 0.25
    assert index.trusted
    assert recall(index.search(queries, 10).rows, brute_force(vectors, queries, 10)) >= 0.98


def test_the_graph_is_built_anew_when_too_much_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    index = HnswIndex(rebuild_share=0.15)
    index.build(clustered(100))
    builds = []
    rebuild = HnswIndex._rebuild
    monkeypatch.setattr(HnswIndex, "_rebuild", lambda self: (builds.append(1), rebuild(self)))
    index.update(torch.arange(10), clustered(10, seed=1))
    index.update(torch.arange(5, 15), clustered(10, seed=2))
    assert index.changed_share == pytest.approx(0.15)
    assert not builds
    index.update(torch.tensor([50]), clustered(1, seed=3))
    assert len(builds) == 1
    assert index.changed_share == 0


def test_the_share_that_changed_survives_saving() -> None:
    index, restored = HnswIndex(), HnswIndex()
    index.build(clustered(100))
    index.update(torch.arange(10), clustered(10, seed=1))
    restored.load_state_dict(index.state_dict())
    assert restored.changed_share == index.changed_share == pytest.approx(0.1)
    restored.update(torch.arange(10, 20), clustered(10, seed=2))
    assert (restored.changed_share, index.changed_share) == (pytest.approx(0.0), pytest.approx(0.1))


def test_a_graph_of_other_documents_is_refused() -> None:
    index, smaller = HnswIndex(), HnswIndex()
    index.build(clustered(30))
    smaller.build(clustered(20))
    state = index.state_dict() | {"graph": smaller.state_dict()["graph"]}
    with pytest.raises(CheckpointError, match="expected a graph of 30 documents; got 20; the checkpoint is damaged"):
        HnswIndex().load_state_dict(state)


def test_the_graph_depends_on_the_seed_alone() -> None:
    graphs = []
    for seed in (3, 3, 4):
        index = HnswIndex(seed=seed)
        index.build(clustered(300))
        index.update(torch.arange(20), clustered(20, seed=1))
        graphs.append(index.state_dict()["graph"])
    assert torch.equal(graphs[0], graphs[1])
    assert graphs[0].shape != graphs[2].shape or not torch.equal(graphs[0], graphs[2])


def test_k_beyond_ef_is_served() -> None:
    vectors = clustered(300)
    index = HnswIndex(ef=5)
    index.build(vectors)
    queries = clustered(10, seed=1)
    assert recall(index.search(queries, 100).rows, brute_force(vectors, queries, 100)) >= 0.98


def test_collapsed_embeddings_are_searched_exactly_until_they_spread_again() -> None:
    spread, queries = clustered(1500), clustered(20, seed=1)
    point = clustered(1, seed=9)
    collapsed = normalize(point + 1e-4 * spread, dim=1)
    index = HnswIndex(ef=64)
    with pytest.warns(UserWarning, match=r"the graph finds only .*% of the nearest documents, so search is exact"):
        index.build(collapsed)
    assert not index.trusted
    near = normalize(point + 1e-4 * queries, dim=1)
    hits, scores = index.search(near, 10), near @ collapsed.T
    torch.testing.assert_close(hits.scores, scores.topk(10).values, atol=1e-7, rtol=0)
    restored = HnswIndex(ef=64)
    restored.load_state_dict(index.state_dict())
    assert not restored.trusted
    index.build(spread)
    assert index.trusted
    assert recall(index.search(queries, 10).rows, brute_force(spread, queries, 10)) >= 0.98


def test_identical_embeddings_do_not_fail() -> None:
    index = HnswIndex()
    index.build(clustered(1).repeat(200, 1))
    hits = index.search(clustered(1), 200)
    assert sorted(hits.rows[0].tolist()) == list(range(200))


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


@pytest.mark.parametrize(
    ("least", "tried"), [(0, [20]), (100, [20, 160]), (200, [20, 160, 500]), (1e9, [20, 160, 500])]
)
def test_a_graph_that_cannot_answer_is_asked_harder_and_then_passed_over(least: float, tried: list[int]) -> None:
    vectors, queries = clustered(500), clustered(5, seed=1)
    index = HnswIndex(ef=20)
    index.build(vectors)
    index._graph = graph = Stubborn(index._graph, least)
    hits = index.search(queries, 10)
    assert graph.tried == tried
    assert recall(hits.rows, brute_force(vectors, queries, 10)) >= 0.98


def test_a_graph_that_never_answers_is_not_trusted() -> None:
    index = HnswIndex(ef=20)
    index.build(clustered(100))
    index._graph = Stubborn(index._graph, 1e9)
    with pytest.warns(UserWarning, match="finds only 0%"):
        index._probe()
    assert not index.trusted


def test_a_copy_of_an_empty_index_is_independent() -> None:
    prototype = HnswIndex(ef=40)
    first, second = copy.deepcopy(prototype), copy.deepcopy(prototype)
    first.build(clustered(10))
    second.build(clustered(20))
    assert (len(prototype), len(first), len(second)) == (0, 10, 20)
    assert second.ef == 40
    assert prototype.changed_share == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"m": 1}, "index.init_args.m: expected at least 2; got 1"),
        ({"ef_construction": 0}, "index.init_args.ef_construction: expected at least 1; got 0"),
        ({"ef": 0}, "index.init_args.ef: expected at least 1; got 0"),
        ({"threads": 0}, "index.init_args.threads: expected at least 1; got 0"),
        ({"rebuild_share": 1.5}, "index.init_args.rebuild_share: expected a share from 0 to 1; got 1.5"),
        ({"min_recall": float("nan")}, "index.init_args.min_recall: expected a share from 0 to 1; got nan"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HnswIndex(**settings)
