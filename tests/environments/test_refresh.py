import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from srch3.environments import FullRefresh, NeighbourhoodRefresh, NoRefresh
from srch3.environments.touched import Touched
from srch3.errors import ConfigError
from srch3.indexes import ExactIndex
from tests.indexes.clusters import clustered


def exact(count: int) -> ExactIndex:
    index = ExactIndex()
    index.build(clustered(count))
    return index


def seen(count: int, positives: int, hits: int, seed: int) -> Touched:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(count, generator=generator)[:size].sort().values for size in (positives, hits)]
    return Touched(*rows, torch.rand(len(rows[1]), generator=generator, dtype=torch.float64))


def nearest(index: ExactIndex, row: int, count: int) -> set[int]:
    scores = (index.vectors @ index.vectors[row]).tolist()
    others = [other for other in range(len(index)) if other != row]
    return set(sorted(others, key=lambda other: (-scores[other], other))[:count])


NOTHING = Touched(torch.empty(0).long(), torch.empty(0).long(), torch.empty(0).double())


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 120),
    st.integers(1, 130),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.integers(0, 6),
    st.integers(0, 15),
    st.integers(0, 99),
)
def test_the_budget_is_spent_whole_and_never_exceeded(
    count: int, documents: int, oldest: float, competitors: int, positives: int, seed: int
) -> None:
    policy = NeighbourhoodRefresh(documents=documents, oldest_share=oldest, competitors=competitors)
    stamps = torch.randint(9, (count,), generator=torch.Generator().manual_seed(seed))
    rows = policy.select(seen(count, positives, 3 * positives, seed), exact(count), stamps)
    assert len(rows) == min(count, documents)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert torch.equal(rows, policy.select(seen(count, positives, 3 * positives, seed), exact(count), stamps))


@settings(deadline=None, max_examples=40)
@given(st.integers(30, 120), st.integers(2, 60), st.integers(1, 6), st.integers(0, 99))
def test_a_positive_is_refreshed_with_its_competitors_or_not_at_all(
    count: int, room: int, competitors: int, seed: int
) -> None:
    index, stamps = exact(count), torch.zeros(count, dtype=torch.int64)
    chosen = torch.zeros(count, dtype=torch.bool)
    policy = NeighbourhoodRefresh(documents=room, competitors=competitors)
    touched = seen(count, 8, 0, seed)
    policy._take_neighbourhoods(chosen, room, touched, index, stamps)
    assert chosen.sum() <= room
    units = {row: {row} | nearest(index, row, competitors) for row in touched.positives.tolist()}
    taken = set(chosen.nonzero()[:, 0].tolist())
    whole = [unit for unit in units.values() if unit <= taken]
    assert taken == set().union(*whole)
    assert bool(whole) == (room > competitors)


def test_the_stalest_positives_come_first() -> None:
    index = exact(50)
    stamps = torch.full((50,), 9)
    stamps[30] = 2
    touched = Touched(torch.tensor([4, 30, 40]), torch.empty(0).long(), torch.empty(0).double())
    rows = NeighbourhoodRefresh(documents=4, oldest_share=0.0, competitors=3).select(touched, index, stamps)
    assert set(rows.tolist()) == {30} | nearest(index, 30, 3)


def test_room_beyond_the_neighbourhoods_goes_to_the_weightiest_hits() -> None:
    hits = torch.tensor([10, 11, 12, 13])
    touched = Touched(torch.tensor([4]), hits, torch.tensor([0.1, 3.0, 0.2, 2.0], dtype=torch.float64))
    policy = NeighbourhoodRefresh(documents=5, oldest_share=0.2, competitors=1)
    stamps = torch.arange(50).flip(0)
    rows = set(policy.select(touched, exact(50), stamps).tolist())
    assert rows == {4, 11, 13, 49} | nearest(exact(50), 4, 1)


def test_without_anything_seen_the_oldest_are_refreshed_and_ties_go_by_row() -> None:
    stamps = torch.tensor([5, 3, 5, 3, 1, 3])
    assert NeighbourhoodRefresh(documents=3).select(NOTHING, exact(6), stamps).tolist() == [1, 3, 4]


@settings(deadline=None, max_examples=25)
@given(st.integers(5, 60), st.integers(1, 20), st.sampled_from([0.1, 0.5, 1.0]), st.integers(0, 99))
def test_every_age_is_bounded(count: int, documents: int, oldest: float, seed: int) -> None:
    policy = NeighbourhoodRefresh(documents=documents, oldest_share=oldest)
    index, stamps = exact(count), torch.zeros(count, dtype=torch.int64)
    bound = math.ceil(count / math.ceil(oldest * policy.budget(count)))
    for step in range(1, 2 * bound + 5):
        stamps[policy.select(seen(count, 3, 9, seed + step % 2), index, stamps)] = step
        assert int((step - stamps).max()) < bound


def test_the_budget_is_a_share_or_a_number() -> None:
    assert [NeighbourhoodRefresh(share=0.05).budget(count) for count in (1, 5, 100, 4400)] == [1, 1, 5, 220]
    assert [NeighbourhoodRefresh(documents=30).budget(count) for count in (10, 4400)] == [10, 30]


def test_all_and_nothing() -> None:
    stamps: Tensor = torch.tensor([1, 2, 3])
    assert FullRefresh().select(NOTHING, exact(3), stamps).tolist() == [0, 1, 2]
    assert NoRefresh().select(NOTHING, exact(3), stamps).tolist() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 0.0}, "share: expected above 0, up to 1; got 0.0"),
        ({"share": float("nan")}, "share: expected above 0, up to 1; got nan"),
        ({"documents": 0}, "documents: expected at least 1; got 0"),
        ({"oldest_share": 1.1}, "oldest_share: expected 0 to 1; got 1.1"),
        ({"competitors": -1}, "competitors: expected at least 0; got -1"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"environment.init_args.refresh.init_args.{message}"):
        NeighbourhoodRefresh(**arguments)
