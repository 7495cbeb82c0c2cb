from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from srch3.indexes import HnswIndex
from srch3.indexes.proposing import ProposingIndex
from srch3.indexes.scan import NONE, top_k
from tests.indexes.clusters import brute_force, clustered


class Listed(ProposingIndex):
    """Proposes from a dictionary of the vectors that it was given; knows what is near among the first rows alone."""

    kind = "listed"
    fold_share = 0.1

    def __init__(self, effort: int = 1000, overlay_share: float = 0.3, min_recall: float = 0.9) -> None:
        super().__init__(effort, overlay_share, min_recall, "float32")
        self.given: dict[int, Tensor] = {}
        self.hidden: set[int] = set()
        self.calls: list[str] = []
        self.asked: list[int] = []

    def _construct(self, rows: Tensor) -> None:
        self.calls.append("construct")
        self.given, self.hidden = {}, set()
        self._put(rows)

    def _insert(self, rows: Tensor) -> None:
        self.calls.append("insert")
        self._put(rows)

    def _put(self, rows: Tensor) -> None:
        for part, vectors in self._parts(rows):
            self.given.update(zip(part.tolist(), vectors, strict=True))
            self.hidden -= set(part.tolist())

    def _hide(self, rows: Tensor) -> None:
        assert not self.hidden & set(rows.tolist())
        self.hidden |= set(rows.tolist())

    def _propose(self, queries: Tensor, k: int, effort: int) -> Tensor:
        self.asked.append(effort)
        shown = [row for row in sorted(self.given) if row not in self.hidden]
        if not shown:
            return torch.full((len(queries), k), NONE)
        near = -torch.cdist(queries, torch.stack([self.given[row] for row in shown]))
        found = top_k(torch.where(torch.tensor(shown) < effort, near, -9 - near), k).rows
        return torch.tensor(shown)[found]

    def _size(self) -> int:
        return len(self.given)

    def _save(self, path: Path) -> None:
        raise NotImplementedError

    def _load(self, path: Path) -> None:
        raise NotImplementedError


def built(**settings: float) -> Listed:
    index = Listed(**settings)
    index.build(clustered(200))
    index.calls.clear()
    return index


def test_changes_wait_in_the_overlay_until_their_share_is_exceeded() -> None:
    index = built(overlay_share=0.1)
    index.update(torch.arange(12), clustered(12, seed=1))
    index.update(torch.arange(8, 20), clustered(12, seed=2))
    assert index.health()["overlay_share"] == pytest.approx(0.1)
    assert index.calls == []
    index.append(clustered(1, seed=3))
    assert index.health()["overlay_share"] == 0
    assert index.calls == ["construct"]


def test_little_is_merged_row_by_row_and_much_by_building_anew() -> None:
    index = built()
    index.merge()
    assert index.calls == []
    index.update(torch.arange(20), clustered(20, seed=1))
    index.merge()
    assert index.calls == ["insert"]
    index.update(torch.arange(21), clustered(21, seed=2))
    index.merge()
    assert index.calls == ["insert", "construct"]
    queries = clustered(9, seed=4)
    assert index.search(queries, 12).rows.tolist() == brute_force(index.vectors, queries, 12)


def test_removed_documents_that_the_structure_holds_in_vain_make_it_built_anew() -> None:
    index = built(overlay_share=0.3)
    index.remove(torch.arange(46))
    assert index.calls == []
    index.remove(torch.tensor([46]))
    assert index.calls == ["construct"]
    assert index._size() == 153


def test_a_merge_that_costs_recall_is_followed_by_building_anew() -> None:
    index = built()
    index.append(clustered(15, seed=1))
    index.merge()
    assert index.calls == ["insert"]
    index.append(clustered(6, seed=2))
    index.given = {row: vector for row, vector in index.given.items() if row % 2}
    with pytest.warns(UserWarning, match=r"expected the structure to find 90.0% of the nearest documents; got"):
        index.merge()
    assert index.health()["exact_fallback"] == 0
    assert index.calls == ["insert", "insert", "construct"]


def test_no_search_sees_a_vector_that_was_overwritten() -> None:
    index = built()
    old = index.vectors[:30].clone()
    index.update(torch.arange(30), -old)
    hits = index.search(old, 170)
    now = (old @ torch.cat([-old, clustered(200)[30:]]).T).gather(1, hits.rows)
    torch.testing.assert_close(hits.scores, now, atol=1e-6, rtol=0)
    assert index.search(-old, 1).rows[:, 0].tolist() == list(range(30))


def test_effort_is_doubled_until_probes_are_good_and_tried_small_again_after_building() -> None:
    index = built(effort=120)
    assert index.health() == {"ann_recall": 1.0, "ann_effort": 240.0, "exact_fallback": 0.0, "overlay_share": 0.0}
    index.remove(torch.arange(100, 200))
    index.build(clustered(110))
    assert index.health()["ann_effort"] == 120


def test_search_is_exact_while_no_effort_is_enough_and_it_is_said_once() -> None:
    index = Listed(effort=2, overlay_share=1.0)
    with pytest.warns(UserWarning, match=r"got \d+\.\d% even with an effort of 16, so search is exact"):
        index.build(clustered(400))
    index.merge()
    queries = clustered(30, seed=1)
    index.search(queries, 20)
    index.asked.clear()
    assert index.search(queries[:9], 20).rows.tolist() == brute_force(index.vectors, queries[:9], 20)
    assert index.asked == []
    assert index.health()["exact_fallback"] == 1
    index.build(clustered(400))
    index.build(clustered(17))
    assert index.health() == {"ann_recall": 1.0, "ann_effort": 2.0, "exact_fallback": 0.0, "overlay_share": 0.0}


def test_probes_come_after_a_twentieth_of_the_documents_changed_or_were_searched_for() -> None:
    index = built()
    index.asked.clear()
    index.search(clustered(1, seed=9), 3)
    assert index.asked == [1000] * 2
    index.asked.clear()
    index.update(torch.arange(5), clustered(5, seed=1))
    index.search(clustered(4, seed=2), 3)
    assert index.asked == [1000]
    index.search(clustered(1, seed=2), 3)
    assert index.asked == [1000, 1000, 1000]
    index.search(clustered(1, seed=2), 3)
    assert index.asked == [1000] * 4


def test_probes_are_made_with_the_queries_that_were_asked_last() -> None:
    """Stored vectors are found as well as ever; what is asked lies where the structure has lost all documents."""
    index = built(overlay_share=1.0)
    index.search(clustered(1, seed=5), 40)
    vectors, target = index.vectors.clone(), index.vectors[100]
    near = (vectors @ target).topk(60).indices
    kept = torch.linspace(0, 199, 32, dtype=torch.float64).long()
    lost = near[~torch.isin(near, kept)]
    index.given = {row: vector for row, vector in index.given.items() if row not in set(lost.tolist())}
    queries = normalize(target + 0.1 * clustered(40, seed=3), dim=1)
    for query in queries[:8].split(4):
        index.search(query, 40)
    assert index.health()["exact_fallback"] == 0
    with pytest.warns(UserWarning, match="search is exact"):
        index.search(queries[8:], 40)
    for query in queries.split(4):
        index.search(query, 40)
    assert index.health()["exact_fallback"] == 1
    assert index._guard.queries is not None
    assert index._guard.queries.shape == (32, 32)


@pytest.mark.parametrize("count", [5000])
def test_recall_stays_while_embeddings_drift_and_collapse(count: int) -> None:
    vectors, point = clustered(count, clusters=60), clustered(1, seed=77)
    index = HnswIndex(ef_construction=80)
    index.build(vectors)
    for step in range(12):
        closeness = 0.0 if step < 6 else 0.95
        rows = torch.randperm(count, generator=torch.Generator().manual_seed(step))[: count // 20]
        vectors[rows] = normalize(closeness * point + (1 - closeness) * clustered(len(rows), seed=step + 5), dim=1)
        index.update(rows, vectors[rows])
        queries = normalize(closeness * point + (1 - closeness) * clustered(32, seed=step + 50), dim=1)
        worst = (queries @ vectors.T).topk(100).values[:, -1:] - 1e-6
        assert float((index.search(queries, 100).scores >= worst).float().mean()) >= 0.98
