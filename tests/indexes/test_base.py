from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from srch3.errors import CheckpointError, NumericError
from srch3.indexes import BaseIndex, ExactIndex, HnswIndex
from srch3.indexes.scan import exact_search
from tests.indexes.clusters import brute_force, clustered, recall

Make = Callable[[], BaseIndex]
every_index = pytest.mark.parametrize("make", [ExactIndex, HnswIndex])


@every_index
def test_hits_are_the_nearest_documents_with_their_cosines(make: Make) -> None:
    vectors, queries = clustered(500), clustered(30, seed=1)
    index = make()
    index.build(vectors)
    hits = index.search(queries, 10)
    assert len(index) == 500
    assert recall(hits.rows, brute_force(vectors, queries, 10)) >= 0.98
    cosines = (queries.double() @ vectors.double().T).gather(1, hits.rows)
    torch.testing.assert_close(hits.scores.double(), cosines, atol=1e-6, rtol=0)
    assert hits.scores.dtype == torch.float32
    assert hits.rows.dtype == torch.int64
    assert (hits.scores.diff(dim=1) <= 0).all()


@every_index
def test_scores_stay_precise_under_autocast(make: Make) -> None:
    vectors, queries = clustered(500), clustered(30, seed=1)
    index = make()
    index.build(vectors)
    expected = index.search(queries, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hits = index.search(queries, 10)
        exact = exact_search(vectors, queries, 10)
    assert hits.rows.tolist() == expected.rows.tolist()
    torch.testing.assert_close(hits.scores, expected.scores, atol=1e-6, rtol=0)
    assert exact.rows.tolist() == brute_force(vectors, queries, 10)


@every_index
def test_every_document_is_found_when_k_exceeds_their_number(make: Make) -> None:
    vectors = clustered(7)
    index = make()
    index.build(vectors)
    hits = index.search(clustered(3, seed=1), 100)
    assert hits.rows.tolist() == brute_force(vectors, clustered(3, seed=1), 7)


@every_index
def test_truncated_vectors_are_searched_exactly(make: Make) -> None:
    vectors, queries = clustered(500), clustered(30, seed=1)
    index = make()
    index.build(vectors)
    cut = torch.nn.functional.normalize(vectors[:, :5]), torch.nn.functional.normalize(queries[:, :5])
    hits = index.search(queries, 10, width=5)
    assert hits.rows.tolist() == brute_force(*cut, 10) != index.search(queries, 10).rows.tolist()
    torch.testing.assert_close(hits.scores, (cut[1] @ cut[0].T).gather(1, hits.rows), atol=1e-6, rtol=0)
    assert torch.equal(index.search(queries, 10, width=32).rows, index.search(queries, 10).rows)


@every_index
def test_equal_scores_are_ordered_by_row(make: Make) -> None:
    vectors = torch.eye(4)[[2, 0, 1, 0, 0, 3]]
    index = make()
    index.build(vectors)
    hits = index.search(torch.eye(4)[:1], 6)
    assert hits.rows.tolist() == [[1, 3, 4, 0, 2, 5]]
    assert hits.scores.tolist() == [[1, 1, 1, 0, 0, 0]]


@every_index
def test_overwritten_documents_are_found_where_they_are_now(make: Make) -> None:
    vectors = clustered(400)
    index = make()
    index.build(vectors)
    expected = vectors.clone()
    for seed in range(1, 6):
        rows = torch.randperm(400, generator=torch.Generator().manual_seed(seed))[:20]
        expected[rows] = clustered(20, seed=seed + 10)
        index.update(rows, expected[rows])
    queries = clustered(40, seed=1)
    assert torch.equal(index.vectors, expected)
    assert recall(index.search(queries, 10).rows, brute_force(expected, queries, 10)) >= 0.98


@every_index
def test_the_index_keeps_its_own_copy(make: Make) -> None:
    vectors = clustered(10)
    index = make()
    index.build(vectors)
    before = vectors.clone()
    vectors.zero_()
    assert torch.equal(index.vectors, before)


@every_index
def test_a_saved_index_gives_the_same_hits_after_the_same_updates(make: Make, tmp_path: Path) -> None:
    index = make()
    index.build(clustered(300))
    index.update(torch.arange(20), clustered(20, seed=3))
    torch.save(index.state_dict(), tmp_path / "index.pt")
    restored = make()
    restored.load_state_dict(torch.load(tmp_path / "index.pt", weights_only=True))
    queries = clustered(50, seed=1)
    for round_ in range(3):
        before, after = index.search(queries, 20), restored.search(queries, 20)
        assert torch.equal(before.rows, after.rows)
        assert torch.equal(before.scores, after.scores)
        rows = torch.arange(round_, 300, 17)
        for one in (index, restored):
            one.update(rows, clustered(len(rows), seed=round_ + 20))


@every_index
def test_what_is_restored_is_a_copy(make: Make) -> None:
    index = make()
    index.build(clustered(20))
    state = index.state_dict()
    restored = make()
    restored.load_state_dict(state)
    index.update(torch.tensor([3]), clustered(1, seed=5))
    assert torch.equal(restored.vectors, clustered(20))


@every_index
def test_the_same_documents_give_the_same_hits(make: Make) -> None:
    first, second = make(), make()
    for index in (first, second):
        index.build(clustered(200))
        index.update(torch.arange(10), clustered(10, seed=2))
    queries = clustered(20, seed=1)
    assert torch.equal(first.search(queries, 10).rows, second.search(queries, 10).rows)


@every_index
def test_nothing_to_change_changes_nothing(make: Make) -> None:
    index = make()
    index.build(clustered(20))
    index.update(torch.empty(0, dtype=torch.int64), torch.empty(0, 32))
    assert torch.equal(index.vectors, clustered(20))


@every_index
def test_no_queries_give_no_hits(make: Make) -> None:
    index = make()
    index.build(clustered(20))
    hits = index.search(torch.empty(0, 32), 5)
    assert hits.rows.shape == hits.scores.shape == (0, 5)


@every_index
def test_an_index_that_was_built_in_inference_mode_can_be_overwritten_outside(make: Make) -> None:
    index = make()
    with torch.inference_mode():
        index.build(clustered(20))
    index.update(torch.tensor([0]), clustered(1, seed=4))
    assert torch.equal(index.vectors[:1], clustered(1, seed=4))


@every_index
def test_search_and_update_leave_no_gradients_behind(make: Make) -> None:
    index = make()
    index.build(clustered(20).requires_grad_())
    index.update(torch.tensor([0]), clustered(1, seed=4).requires_grad_())
    hits = index.search(clustered(2, seed=1).requires_grad_(), 3)
    assert not index.vectors.requires_grad
    assert not hits.scores.requires_grad


@every_index
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_vectors_that_are_not_finite_are_refused(make: Make, bad: float) -> None:
    vectors = clustered(5)
    vectors[2, 1] = bad
    index = make()
    with pytest.raises(NumericError, match=r"vectors: expected finite numbers; got NaN or infinity in 1 of 5"):
        index.build(vectors)
    index.build(clustered(5))
    with pytest.raises(NumericError, match="vectors: expected finite"):
        index.update(torch.arange(5), vectors)
    with pytest.raises(NumericError, match="queries: expected finite"):
        index.search(vectors, 2)
    assert torch.equal(index.vectors, clustered(5))


@every_index
def test_vectors_without_unit_length_are_refused(make: Make) -> None:
    index = make()
    with pytest.raises(NumericError, match=r"unit length within 0.001; got 1 of 3 .* first of length 0; normalise"):
        index.build(torch.cat([clustered(2), torch.zeros(1, 32)]))
    index.build(clustered(3) * 1.0005)
    with pytest.raises(NumericError, match="queries: expected unit length"):
        index.search(clustered(3) * 1.01, 1)


@every_index
def test_impossible_shapes_and_rows_are_refused(make: Make) -> None:
    index = make()
    with pytest.raises(RuntimeError, match=r"expected build\(\) or load_state_dict\(\) first"):
        index.search(clustered(1), 1)
    assert len(index) == 0
    for vectors in (torch.empty(0, 3), torch.empty(3, 0), torch.ones(3)):
        with pytest.raises(ValueError, match="vectors: expected"):
            index.build(vectors)
    index.build(clustered(5))
    with pytest.raises(ValueError, match="queries: expected"):
        index.search(clustered(2, dim=8), 1)
    with pytest.raises(ValueError, match="queries: expected"):
        index.search(clustered(1)[0], 1)
    with pytest.raises(ValueError, match="k: expected at least 1; got 0"):
        index.search(clustered(2), 0)
    with pytest.raises(ValueError, match="vectors: expected shape"):
        index.update(torch.arange(2), clustered(3))
    for rows in ([0, 5], [-1, 2]):
        with pytest.raises(ValueError, match=f"rows: expected 0 to 4; got {rows[0]} to {rows[1]}"):
            index.update(torch.tensor(rows), clustered(2))
    with pytest.raises(ValueError, match="rows: expected each row once"):
        index.update(torch.tensor([1, 1]), clustered(2))


@every_index
def test_moving_an_index_moves_its_vectors(make: Make) -> None:
    index = make()
    index.build(clustered(5))
    index.to("meta")
    assert index.vectors.device.type == "meta"


def test_a_state_of_another_kind_or_with_other_settings_is_refused() -> None:
    exact, graph = ExactIndex(), HnswIndex()
    exact.build(clustered(10))
    graph.build(clustered(10))
    with pytest.raises(CheckpointError, match="the saved one has kind='hnsw'; got 'exact'"):
        exact.load_state_dict(graph.state_dict())
    with pytest.raises(CheckpointError, match="the saved one has kind='exact'; got 'hnsw'"):
        graph.load_state_dict(exact.state_dict())
    with pytest.raises(CheckpointError, match="the saved one has ef=128; got 64"):
        HnswIndex(ef=64).load_state_dict(graph.state_dict())
    with pytest.raises(CheckpointError, match="the saved one has m=16; got 8"):
        HnswIndex(m=8).load_state_dict(graph.state_dict())


@pytest.mark.parametrize(("name", "value"), [("space", "l2"), ("dim", 31), ("count", 9), ("novel", 1)])
def test_a_manifest_that_does_not_fit_its_vectors_is_refused(name: str, value: object) -> None:
    index = ExactIndex()
    index.build(clustered(10))
    state = index.state_dict()
    state["manifest"][name] = value
    with pytest.raises(CheckpointError, match=f"the saved one has {name}={value!r}"):
        ExactIndex().load_state_dict(state)
