import multiprocessing
from math import exp, log2
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from srch3.environments.touched import Touched, gather, nothing_touched, touched, union
from srch3.indexes import ExactIndex
from srch3.types import Hits, Pending, Searcher
from tests.indexes.clusters import clustered


def on_circle(*cosines: float) -> Tensor:
    """Unit vectors of these cosines with the first axis."""
    return torch.tensor([[cosine, (1 - cosine**2) ** 0.5] for cosine in cosines])


def index_of(vectors: Tensor) -> Searcher:
    index = ExactIndex()
    index.build(vectors)
    return index


def stake(rank: int) -> float:
    return 1 / log2(rank + 1) - 1 / log2(rank + 2)


def deviation(scores: list[float]) -> float:
    mean = sum(scores) / len(scores)
    return (sum((score - mean) ** 2 for score in scores) / len(scores)) ** 0.5


def check(result: Touched, *expected: dict[int, float]) -> None:
    """Compares with stakes by positive, weights by hit, and contests by hit."""
    rows = (result.positives, result.hits, result.hits)
    for found, values, wanted in zip(rows, (result.stakes, result.weights, result.contested), expected, strict=True):
        assert found.tolist() == sorted(wanted)
        torch.testing.assert_close(values, torch.tensor([wanted[row] for row in sorted(wanted)]).double())


COSINES = (0.2, 0.9, 0.8, 0.5, 0.79, 0.1)
AXIS = torch.tensor([[1.0, 0.0]])


def contest(positive: float, hits: list[float], rank: int) -> list[float]:
    width = 0.25 * deviation(hits)
    return [stake(rank) * exp(-(((score - positive) / width) ** 2)) for score in hits]


def test_one_search_by_hand() -> None:
    result = touched(Pending(AXIS, torch.tensor([0]), [{2: 1}], 4), index_of(on_circle(*COSINES)))
    contested = contest(0.8, [0.9, 0.8, 0.79, 0.5], rank=2)
    check(
        result,
        {2: 1 / log2(3) - 1 / 2},
        {1: 1.0, 2: 1 / log2(3), 4: 1 / 2, 3: 1 / log2(5)},
        dict(zip([1, 2, 4, 3], contested, strict=True)),
    )
    assert contested[1] == stake(2)
    assert contested[2] > 0.9 * stake(2) > 0.1 * stake(2) > contested[0]


def test_the_best_of_several_positives_is_at_stake_even_if_it_was_not_found() -> None:
    pending = Pending(AXIS, torch.tensor([0]), [{5: 3, 0: 1}], 4)
    result = touched(pending, index_of(on_circle(*COSINES)))
    assert result.positives.tolist() == [0, 5]
    torch.testing.assert_close(result.stakes, torch.tensor([stake(5), 0.0]).double())


def test_searches_of_several_queries_add_up_whatever_their_order() -> None:
    cosines = on_circle(*COSINES)
    queries = torch.cat([on_circle(0.6), AXIS, on_circle(0.6), AXIS])
    pending = Pending(queries, torch.tensor([1, 0, 1, 0]), [{2: 1}, {4: 1, 0: 1}], 4)
    result = touched(pending, index_of(cosines))
    alone = [
        touched(Pending(AXIS, torch.tensor([0]), [{2: 1}], 4), index_of(cosines)),
        touched(Pending(on_circle(0.6), torch.tensor([0]), [{4: 1, 0: 1}], 4), index_of(cosines)),
    ]
    expected = union(alone * 2)
    for mine, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert result.positives.tolist() == [0, 2, 4]


@pytest.mark.parametrize("seed", range(3))
def test_many_searches_agree_with_a_slow_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors, queries = clustered(80, seed=seed), clustered(12, seed=seed + 10)
    groups = torch.randint(4, (12,), generator=generator)
    relevant = [dict.fromkeys(torch.randperm(80, generator=generator)[: 1 + number].tolist(), 1) for number in range(4)]
    stakes = {row: 0.0 for judged in relevant for row in judged}
    weights, contested = dict[int, float](), dict[int, float]()
    for query, group in zip(queries, groups.tolist(), strict=True):
        scores = [float((query * vector).sum()) for vector in vectors]
        best = max(relevant[group], key=lambda row: scores[row])
        found = sorted(range(80), key=lambda row: -scores[row])[:9]
        rank = 1 + sum(scores[row] > scores[best] for row in found)
        stakes[best] += stake(rank)
        shares = contest(scores[best], [scores[row] for row in found], rank)
        for place, row in enumerate(found):
            weights[row] = weights.get(row, 0.0) + 1 / log2(place + 2)
            contested[row] = contested.get(row, 0.0) + shares[place]
    check(touched(Pending(queries, groups, relevant, 9), index_of(vectors)), stakes, weights, contested)


class Higher(Searcher):
    """Scores a little higher than others do, as another device may."""

    def __init__(self, searcher: Searcher) -> None:
        self.vectors_of, self.searcher = searcher.vectors_of, searcher

    def search(self, queries: Tensor, k: int, width: int | None = None) -> Hits:
        hits = self.searcher.search(queries, k, width)
        return Hits(hits.rows, hits.scores + 1e-6)


def test_a_positive_does_not_compete_with_itself() -> None:
    vectors, queries = clustered(300), clustered(40, seed=1)
    index = index_of(vectors)
    nearest = index.search(queries, 1).rows[:, 0].tolist()
    result = touched(Pending(queries, torch.arange(40), [{row: 1} for row in nearest], 10), index)
    assert float(result.stakes.sum()) == pytest.approx(40 * stake(1))
    higher = Higher(index)
    rounded = touched(Pending(queries, torch.arange(40), [{row: 1} for row in nearest], 10), higher)
    torch.testing.assert_close(rounded.stakes, result.stakes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = touched(Pending(queries, torch.arange(40), [{row: 1} for row in nearest], 10), index)
    assert all(torch.equal(left, right) for left, right in zip(result, again, strict=True))


def test_equal_scores_are_contested_to_the_full() -> None:
    result = touched(Pending(AXIS, torch.tensor([0]), [{1: 1}], 3), index_of(on_circle(0.5, 0.5, 0.5)))
    check(result, {1: stake(1)}, {0: 1.0, 1: 1 / log2(3), 2: 1 / 2}, {0: stake(1), 1: stake(1), 2: stake(1)})


def test_no_searches_touch_nothing() -> None:
    check(touched(Pending(torch.empty(0, 2), torch.empty(0).long(), [], 5), index_of(AXIS)), {}, {}, {})


def some(positives: dict[int, float], weights: dict[int, float], contested: dict[int, float]) -> Touched:
    columns = [torch.tensor(list(values), dtype=torch.float64) for values in (positives, weights)]
    stakes, hits = (torch.tensor(list(values.values()), dtype=torch.float64) for values in (positives, weights))
    rivals = torch.tensor([contested[row] for row in weights], dtype=torch.float64)
    return Touched(columns[0].long(), stakes, columns[1].long(), hits, rivals)


PARTS = (
    some({1: 0.5}, {1: 1.0, 2: 0.5}, {1: 0.25, 2: 0.75}),
    some({1: 0.25, 4: 2.0}, {2: 1.0, 3: 0.5}, {2: 0.5, 3: 0.125}),
)
TOGETHER = ({1: 0.75, 4: 2.0}, {1: 1.0, 2: 1.5, 3: 0.5}, {1: 0.25, 2: 1.25, 3: 0.125})


def test_a_union_adds_up_and_names_each_document_once() -> None:
    check(union(list(PARTS)), *TOGETHER)
    check(union([*PARTS[::-1], nothing_touched()]), *TOGETHER)


def test_alone_a_rank_has_only_its_own() -> None:
    assert gather(PARTS[0]) is PARTS[0]


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(tuple(gather(PARTS[rank])), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_all_ranks_gather_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=60)
    first, second = (Touched(*torch.load(tmp_path / f"{rank}.pt")) for rank in range(2))
    check(first, *TOGETHER)
    assert all(torch.equal(left, right) for left, right in zip(first, second, strict=True))
