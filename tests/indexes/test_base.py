import threading
from collections.abc import Callable
from functools import partial

import pytest
import torch

from srch3.errors import ConfigError, NumericError
from srch3.indexes import BaseIndex, ExactIndex, FaissIndex, HnswIndex
from srch3.indexes.scan import exact_search
from tests.indexes.clusters import brute_force, clustered, recall

Make = Callable[[], BaseIndex]
KINDS = ["exact", "hnsw", "faiss"]
every_index = pytest.mark.parametrize("make", [ExactIndex, HnswIndex, partial(FaissIndex, dtype="float32")], ids=KINDS)


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
    with pytest.raises(RuntimeError, match=r"expected build\(\) or read\(\) first"):
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


def test_moving_an_index_moves_nothing_that_searches_need() -> None:
    index = HnswIndex()
    index.build(clustered(50))
    index.update(torch.arange(3), clustered(3, seed=1))
    before = index.search(clustered(4, seed=2), 5)
    index.to("cpu")
    assert torch.equal(index.search(clustered(4, seed=2), 5).rows, before.rows)


@every_index
def test_documents_are_added_at_the_end_and_found(make: Make) -> None:
    index = make()
    index.build(clustered(100))
    assert index.append(clustered(30, seed=1)).tolist() == list(range(100, 130))
    assert index.append(torch.empty(0, 32)).tolist() == []
    assert index.append(clustered(1, seed=2)).tolist() == [130]
    both = torch.cat([clustered(100), clustered(30, seed=1), clustered(1, seed=2)])
    assert torch.equal(index.vectors, both)
    assert (len(index), index.live) == (131, 131)
    assert recall(index.search(clustered(9, seed=3), 10).rows, brute_force(both, clustered(9, seed=3), 10)) >= 0.98


@every_index
def test_removed_documents_are_not_found_until_they_are_given_vectors_again(make: Make) -> None:
    vectors, queries = clustered(60), clustered(5, seed=1)
    index = make()
    index.build(vectors)
    gone = torch.arange(0, 60, 2)
    index.remove(gone)
    assert (len(index), index.live) == (60, 30)
    assert index.alive.tolist() == [False, True] * 30
    for width in (None, 8):
        found = index.search(queries, 60, width).rows
        assert sorted(found[0].tolist()) == list(range(1, 60, 2))
    index.merge()
    assert sorted(index.search(queries, 60).rows[0].tolist()) == list(range(1, 60, 2))
    index.update(gone[:1], vectors[5:6])
    hits = index.search(vectors[5:6], 2)
    assert hits.rows.tolist() == [[0, 5]]
    assert hits.scores[0, 0] == hits.scores[0, 1]


@every_index
def test_an_index_may_run_empty_and_be_filled_again(make: Make) -> None:
    index = make()
    index.build(clustered(5))
    index.remove(torch.arange(5))
    index.merge()
    assert index.search(clustered(2), 3).rows.shape == (2, 0)
    assert index.search(clustered(2), 3, width=4).rows.shape == (2, 0)
    index.append(clustered(3, seed=1))
    index.merge()
    assert sorted(index.search(clustered(1), 3).rows[0].tolist()) == [5, 6, 7]


@every_index
def test_what_cannot_be_removed_or_added_is_refused(make: Make) -> None:
    index = make()
    index.build(clustered(5))
    index.remove(torch.tensor([3]))
    with pytest.raises(ValueError, match="rows: expected rows that hold documents; got 1 that do not, the first is 3"):
        index.remove(torch.tensor([2, 3]))
    with pytest.raises(ValueError, match="rows: expected 0 to 4; got 5 to 5"):
        index.remove(torch.tensor([5]))
    with pytest.raises(ValueError, match="rows: expected each row once"):
        index.remove(torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="vectors: expected shape"):
        index.append(clustered(2, dim=8))
    with pytest.raises(NumericError, match="vectors: expected unit length"):
        index.append(2 * clustered(2))
    assert (len(index), index.live) == (5, 4)


def test_all_kinds_give_a_document_the_same_score_to_the_last_bit() -> None:
    vectors, queries = clustered(700), clustered(40, seed=1)
    indexes = [ExactIndex(), ExactIndex(block=999), HnswIndex(), FaissIndex(dtype="float32")]
    tables = []
    for index in indexes:
        index.build(vectors)
        hits = index.search(queries, 50)
        tables.append({(q, row): score for q, (rows, scores) in enumerate(zip(*map(torch.Tensor.tolist, hits),
                       strict=True)) for row, score in zip(rows, scores, strict=True)})  # fmt: skip
    alone = {(0, row): score for row, score in zip(*(x[0].tolist() for x in indexes[0].search(queries[:1], 3)),
             strict=True)}  # fmt: skip
    for table in [*tables[1:], alone]:
        shared = table.keys() & tables[0].keys()
        assert len(shared) > 0.95 * len(table)
        assert all(table[pair] == tables[0][pair] for pair in shared)


@every_index
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_scores_are_those_of_the_vectors_as_they_are_stored(make: Make, dtype: str) -> None:
    vectors, queries = clustered(300), clustered(20, seed=1)
    index = partial(make, dtype=dtype)()
    index.build(vectors)
    index.update(torch.arange(5), clustered(5, seed=2))
    vectors[:5] = clustered(5, seed=2)
    scale = vectors.abs().amax(dim=1, keepdim=True) / 127
    stored = vectors.half().float() if dtype == "float16" else (vectors / scale).round() * scale
    torch.testing.assert_close(index.vectors, stored, atol=1e-7, rtol=0)
    torch.testing.assert_close(index.vectors_of(torch.tensor([7, 0])), stored[[7, 0]], atol=1e-7, rtol=0)
    hits = index.search(queries, 10)
    assert recall(hits.rows, brute_force(stored, queries, 10)) >= 0.98
    torch.testing.assert_close(hits.scores, (queries @ stored.T).gather(1, hits.rows), atol=1e-6, rtol=0)
    assert index.vectors.dtype == hits.scores.dtype == torch.float32


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"init_args.dtype: expected one of float32, float16, int8; got 'bfloat16'"):
        ExactIndex(dtype="bfloat16")  # type: ignore[arg-type]


@every_index
def test_searches_and_changes_from_several_threads_do_not_meet(make: Make) -> None:
    """The two positions that documents move between are told apart by every search."""
    index = make()
    here, there = torch.eye(32)[:1].repeat(40, 1), torch.eye(32)[1:2].repeat(40, 1)
    index.build(here)
    mixed, done = [], threading.Event()

    def look() -> None:
        while not done.is_set():
            scores = index.search(torch.eye(32)[:1], 40).scores
            mixed.append(bool(scores.min() != scores.max()))

    thread = threading.Thread(target=look)
    thread.start()
    for place in [there, here] * 15:
        index.update(torch.arange(40), place)
    done.set()
    thread.join()
    assert mixed
    assert not any(mixed)


@every_index
def test_vectors_are_mapped_in_single_precision_under_autocast_and_other_default_types(make: Make) -> None:
    vectors = clustered(500)
    matrix = torch.eye(vectors.shape[1]) + 1e-3 * torch.randn(vectors.shape[1], vectors.shape[1])
    index = make()
    index.build(vectors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(5):
            index.map(matrix)
    expected = vectors.double() @ torch.linalg.matrix_power(matrix.double(), 5)
    expected = torch.nn.functional.normalize(expected, dim=1).float()
    torch.testing.assert_close(index.vectors_of(torch.arange(500)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_an_index_that_is_made_in_a_step_of_another_default_type_stores_the_same(default: torch.dtype) -> None:
    indexes, vectors = [], clustered(50)
    for kind in (torch.float32, default):
        torch.set_default_dtype(kind)
        try:
            index = ExactIndex(dtype="int8")
            index.build(vectors)
        finally:
            torch.set_default_dtype(torch.float32)
        indexes.append(index)
    assert torch.equal(indexes[0].vectors, indexes[1].vectors)
    assert indexes[1].vectors.dtype == torch.float32
