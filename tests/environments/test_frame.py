from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from srch3.environments.frame import MAX_CONDITION, MIN_RECALL, SLACK, FramedIndex
from srch3.indexes import BaseIndex, ExactIndex, HnswIndex
from tests.indexes.clusters import brute_force, clustered, recall

DIM = 16
KINDS: list[Callable[[], BaseIndex]] = [ExactIndex, HnswIndex, lambda: ExactIndex(dtype="float16")]


def turn(seed: int, size: float = 0.3) -> Tensor:
    """A map that is neither orthogonal nor symmetric, in double precision."""
    noise = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.eye(DIM, dtype=torch.float64) + size * noise / DIM**0.5


def mapped(vectors: Tensor, *matrices: Tensor) -> Tensor:
    for matrix in matrices:
        vectors = normalize(vectors.double() @ matrix, dim=1)
    return vectors.float()


def framed(make: Callable[[], BaseIndex], count: int = 200) -> FramedIndex:
    index = FramedIndex(make())
    index.build(clustered(count, DIM))
    return index


def everything(index: FramedIndex) -> Tensor:
    return index.vectors_of(torch.arange(len(index.index)))


def agrees(index: FramedIndex, vectors: Tensor, rows: list[int] | None = None, least: float = 0.98) -> None:
    """Vectors are where they should be, and searches find and score them as brute force does, but for ``least``."""
    rows = list(range(len(vectors))) if rows is None else rows
    tolerance = 1e-3 if index.index.dtype == "float16" else 1e-5
    torch.testing.assert_close(index.vectors_of(torch.tensor(rows)), vectors[rows], atol=tolerance, rtol=0)
    queries = mapped(clustered(30, DIM, seed=9), turn(1))
    hits = index.search(queries, 10)
    assert hits.rows.shape == (30, 10)
    assert set(hits.rows.flatten().tolist()) <= set(rows)
    scores = (queries[:, None] * index.vectors_of(hits.rows.flatten()).view(30, 10, DIM)).sum(dim=2)
    torch.testing.assert_close(hits.scores, scores, atol=1e-6, rtol=0)
    assert (hits.scores.diff(dim=1) <= 0).all()
    now = index.vectors_of(torch.tensor(rows))
    expected = [[rows[place] for place in found] for found in brute_force(now, queries, 10)]
    assert recall(hits.rows, expected) >= least


@pytest.mark.parametrize("make", KINDS)
def test_searches_are_those_of_mapped_vectors_after_one_map_and_several(make: Callable[[], BaseIndex]) -> None:
    index, vectors, moves = framed(make), clustered(200, DIM), []
    agrees(index, vectors)
    for seed in range(1, 5):
        moves.append(turn(seed, 0.2))
        index.move(moves[-1])
        agrees(index, mapped(vectors, *moves))


def test_exact_vectors_are_mapped_in_place_and_hits_are_exact() -> None:
    index = framed(ExactIndex)
    index.move(turn(1))
    assert index.matrix is None
    torch.testing.assert_close(index.index.vectors, mapped(clustered(200, DIM), turn(1)), atol=1e-6, rtol=0)
    queries = clustered(20, DIM, seed=3)
    assert index.search(queries, 7).rows.tolist() == brute_force(index.index.vectors, queries, 7)


@pytest.mark.parametrize("make", KINDS[1:])
def test_others_keep_their_vectors_and_a_matrix(make: Callable[[], BaseIndex]) -> None:
    index = framed(make)
    before = index.index.vectors.clone()
    index.move(turn(1))
    index.move(turn(2))
    assert torch.equal(index.index.vectors, before)
    assert index.matrix is not None
    product = turn(1) @ turn(2)
    torch.testing.assert_close(index.matrix, product * (DIM**0.5 / product.norm()))


@pytest.mark.parametrize("make", KINDS)
def test_updates_additions_and_removals_are_in_the_coordinates_of_the_model(make: Callable[[], BaseIndex]) -> None:
    index, vectors = framed(make), mapped(clustered(200, DIM), turn(1))
    index.move(turn(1))
    rows, new = torch.tensor([5, 190, 60]), clustered(3, DIM, seed=4)
    index.update(rows, new)
    vectors[rows] = new
    more = clustered(2, DIM, seed=5)
    assert index.append(more).tolist() == [200, 201]
    vectors = torch.cat([vectors, more])
    agrees(index, vectors)
    index.index.remove(torch.tensor([3, 5, 201]))
    left = [row for row in range(202) if row not in (3, 5, 201)]
    agrees(index, vectors, left)
    index.move(turn(2))
    agrees(index, mapped(vectors, turn(2)), left)
    index.settle()
    assert index.matrix is None
    agrees(index, mapped(vectors, turn(2)), left)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("width", [5, DIM - 1])
def test_searches_by_the_first_components_are_exact(make: Callable[[], BaseIndex], width: int) -> None:
    index = framed(make)
    index.move(turn(1))
    index.index.remove(torch.tensor([0, 1, 2]))
    queries = clustered(20, DIM, seed=3)
    hits = index.search(queries, 9, width=width)
    short = normalize(everything(index)[3:, :width], dim=1)
    wanted = normalize(queries[:, :width], dim=1)
    assert hits.rows.tolist() == [[row + 3 for row in rows] for rows in brute_force(short, wanted, 9)]
    torch.testing.assert_close(hits.scores, (wanted @ short.T).sort(dim=1, descending=True).values[:, :9])
    agrees(index, everything(index), list(range(3, 200)))
    whole = index.search(queries, 9, width=DIM)
    assert torch.equal(whole.rows, index.search(queries, 9).rows)


@pytest.mark.parametrize("make", KINDS)
def test_more_hits_than_documents_give_all_of_them(make: Callable[[], BaseIndex]) -> None:
    index = framed(make, count=12)
    index.move(turn(1))
    index.index.remove(torch.tensor([4]))
    for hits in (index.search(clustered(3, DIM), 50), index.search(clustered(3, DIM), 50, width=4)):
        assert [sorted(rows) for rows in hits.rows.tolist()] == [[row for row in range(12) if row != 4]] * 3
    assert index.search(torch.empty(0, DIM), 5).rows.shape == (0, 5)


def test_scores_are_single_precision_under_autocast_and_have_no_gradient() -> None:
    index, queries = framed(HnswIndex), clustered(10, DIM, seed=3)
    index.move(turn(1))
    expected = index.search(queries, 5), index.search(queries, 5, width=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = index.search(queries.requires_grad_(), 5), index.search(queries, 5, width=4)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine.rows, theirs.rows)
        assert torch.equal(mine.scores, theirs.scores)
        assert not mine.scores.requires_grad


def test_equal_documents_are_tied_by_row() -> None:
    vectors = clustered(40, DIM)
    vectors[30] = vectors[10] = vectors[20]
    index = FramedIndex(ExactIndex(dtype="float16"))
    index.build(vectors)
    index.move(turn(1))
    hits = index.search(index.vectors_of(torch.tensor([20])), 3)
    assert hits.rows.tolist() == [[10, 20, 30]]
    assert len(set(hits.scores[0].tolist())) == 1


def test_more_is_proposed_than_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    index, asked = framed(HnswIndex), []
    index.move(turn(1))
    search = HnswIndex.search
    monkeypatch.setattr(HnswIndex, "search", lambda self, q, k, *more: asked.append(k) or search(self, q, k, *more))
    assert index.search(clustered(2, DIM), 10).rows.shape == (2, 10)
    assert asked == [int(SLACK * 10) + 1]


def test_a_map_that_squeezes_too_much_is_applied_to_the_vectors() -> None:
    index = framed(HnswIndex)
    squeeze = torch.diag(torch.linspace(1, 2 / MAX_CONDITION["float32"], DIM, dtype=torch.float64))
    index.move(squeeze)
    assert index.matrix is not None
    index.move(squeeze)
    assert index.matrix is None
    agrees(index, mapped(clustered(200, DIM), squeeze, squeeze))


def test_many_maps_stay_accurate_and_of_moderate_size() -> None:
    index, vectors = framed(HnswIndex), clustered(200, DIM)
    for seed in range(60):
        index.move(7.0 * turn(seed, 0.05))
        vectors = mapped(vectors, turn(seed, 0.05))
    agrees(index, vectors)
    assert index.matrix is None or float(index.matrix.norm()) == pytest.approx(DIM**0.5)


@pytest.mark.parametrize("make", KINDS)
def test_building_goes_back_to_the_models_coordinates(make: Callable[[], BaseIndex]) -> None:
    index = framed(make)
    index.move(turn(1))
    index.index.remove(torch.tensor([1, 2]))
    index.build(clustered(200, DIM, seed=6), torch.tensor([7, 8]))
    assert index.matrix is None
    assert index.index.live == 198
    agrees(index, clustered(200, DIM, seed=6), [row for row in range(200) if row not in (7, 8)])


def test_a_matrix_can_be_taken_over() -> None:
    first, second = framed(HnswIndex), framed(HnswIndex)
    first.move(turn(1))
    second.restore(first.matrix, first.slack, first.moves)
    queries = clustered(20, DIM, seed=3)
    assert torch.equal(first.search(queries, 5).scores, second.search(queries, 5).scores)
    second.update(torch.tensor([3]), queries[:1])
    agrees(second, mapped(clustered(200, DIM), turn(1)).index_copy(0, torch.tensor([3]), queries[:1]))


def leaning(count: int, seed: int = 0) -> Tensor:
    """Clustered vectors that share a direction, as those of language models do."""
    shared = normalize(torch.ones(1, DIM), dim=1)
    return normalize(clustered(count, DIM, seed=seed) + 1.5 * shared, dim=1)


def test_what_the_map_hides_from_proposals_is_noticed_and_mended() -> None:
    index, vectors = FramedIndex(HnswIndex()), leaning(2000)
    index.build(vectors)
    stretch = torch.diag(torch.linspace(0.99, 1.01, DIM, dtype=torch.float64)) @ turn(3, 0.005)
    least, mended = 1.0, False
    for step in range(120):
        index.move(stretch)
        vectors = mapped(vectors, stretch)
        queries = mapped(leaning(32, seed=step + 1), *[stretch] * (step + 1))
        hits = index.search(queries, 50)
        mended |= index.slack > SLACK or index.matrix is None
        if step % 5 == 4:
            least = min(least, recall(hits.rows, brute_force(everything(index), queries, 50)))
    assert mended
    assert index.health()["ann_recall"] >= MIN_RECALL
    assert least >= 0.97


def test_an_exact_index_that_rounds_is_scanned_through_the_map() -> None:
    index = FramedIndex(ExactIndex(dtype="float16"))
    index.build(leaning(500))
    for seed in range(12):
        index.move(turn(seed, 0.2))
    queries = leaning(20, seed=4)
    hits = index.search(queries, 30)
    assert index.matrix is not None
    assert hits.rows.tolist() == brute_force(everything(index), queries, 30)


def test_a_probe_under_autocast_finds_nothing_amiss_that_is_not() -> None:
    index = framed(HnswIndex, count=1500)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for seed in range(8):
            index.move(turn(seed, 1e-3))
        index.search(clustered(40, DIM, seed=3), 50)
    assert (index.moves, index.slack) == (0, SLACK)
    assert index.matrix is not None
    assert index.health()["ann_recall"] >= MIN_RECALL


@pytest.mark.parametrize("smallest", [0.9e-3, 1.1e-3])
def test_what_squeezes_one_direction_alone_is_noticed_in_any_width(smallest: float) -> None:
    assert MAX_CONDITION["float32"] == 1e3
    index, width = FramedIndex(HnswIndex()), 96
    index.build(clustered(50, width))
    sides = [torch.linalg.qr(torch.randn(width, width, dtype=torch.float64)).Q for _ in range(2)]
    values = torch.ones(width, dtype=torch.float64)
    values[-1] = smallest
    index.move(sides[0] @ values.diag() @ sides[1].T)
    assert (index.matrix is None) == (smallest < 1e-3)
