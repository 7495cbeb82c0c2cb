from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from srch3.environments import NeighbourhoodRefresh
from srch3.environments.refresh.neighbourhood import packed
from srch3.environments.touched import Touched
from srch3.errors import ConfigError
from tests.environments.refresh.views import NOTHING, nearest_rows, seen, view
from tests.indexes.clusters import clustered


def positives(*rows: int) -> Touched:
    return NOTHING._replace(positives=torch.tensor(rows))


@settings(deadline=None, max_examples=40)
@given(st.integers(30, 120), st.integers(2, 60), st.integers(1, 6), st.integers(0, 99))
def test_a_positive_is_refreshed_with_its_competitors_or_not_at_all(
    count: int, room: int, competitors: int, seed: int
) -> None:
    touched = seen(count, 8, 0, seed)
    ranked = NeighbourhoodRefresh(competitors).rank(view([0] * count, seen=touched), room)
    taken = set(ranked.tolist())
    assert len(taken) == len(ranked) <= room
    units = {row: {row} | nearest_rows(clustered(count), row, competitors) for row in touched.positives.tolist()}
    whole = [unit for unit in units.values() if unit <= taken]
    assert taken == set().union(*whole)
    assert bool(whole) == (room > competitors)


def test_positives_are_not_preferred_as_hits_where_their_competitors_do_not_fit() -> None:
    touched = positives(4, 30)._replace(hits=torch.tensor([4, 11, 30]), weights=torch.tensor([9.0, 0.1, 8.0]).double())
    assert NeighbourhoodRefresh(sweep=0).rank(view([0] * 50, seen=touched), 4).tolist() == [11]


def test_the_stalest_positives_come_first() -> None:
    stamps = torch.full((50,), 9)
    stamps[30] = 2
    rows = NeighbourhoodRefresh(competitors=3, sweep=0).select(view(stamps, seen=positives(4, 30, 40)), 4)
    assert set(rows.tolist()) == {30} | nearest_rows(clustered(50), 30, 3)


def test_hops_enlarge_what_is_refreshed_together() -> None:
    near = nearest_rows(clustered(50), 30, 3)
    far = {30} | near.union(*(nearest_rows(clustered(50), row, 3) for row in near))
    assert len(far) > 4
    policy = NeighbourhoodRefresh(competitors=3, hops=2, sweep=0)
    assert set(policy.rank(view([0] * 50, seen=positives(30)), len(far)).tolist()) == far
    assert policy.rank(view([0] * 50, seen=positives(30)), len(far) - 1).tolist() == []


def test_room_beyond_the_neighbourhoods_goes_to_the_weightiest_hits() -> None:
    hits = torch.tensor([10, 11, 12, 13])
    touched = positives(4)._replace(hits=hits, weights=torch.tensor([0.1, 3.0, 0.2, 2.0], dtype=torch.float64))
    policy = NeighbourhoodRefresh(competitors=1, sweep=0.2)
    rows = set(policy.select(view(torch.arange(50).flip(0), 60, touched), 5).tolist())
    assert rows == {4, 11, 13, 49} | nearest_rows(clustered(50), 4, 1)


def test_without_anything_seen_the_oldest_are_refreshed_and_nothing_is_searched() -> None:
    shown = view([5, 3, 5, 3, 1, 3])
    assert NeighbourhoodRefresh().select(shown, 3).tolist() == [1, 4, 5]
    assert shown.searcher.queries == 0


def test_removed_positives_are_passed_over() -> None:
    alive = torch.ones(50, dtype=torch.bool)
    alive[30] = False
    shown = view([0] * 50, seen=positives(4, 30), alive=alive)
    ranked = NeighbourhoodRefresh(competitors=3).rank(shown, 40)
    living = clustered(50)
    living[30] = 0
    assert set(ranked.tolist()) == {4} | nearest_rows(living, 4, 3)


def test_members_that_are_up_to_date_take_no_room() -> None:
    stamps = torch.zeros(50, dtype=torch.int64)
    near = nearest_rows(clustered(50), 4, 4)
    stamps[list(near)] = 10
    assert NeighbourhoodRefresh(sweep=0).select(view(stamps, seen=positives(4)), 1).tolist() == [4]


def test_packing_passes_over_what_does_not_fit_and_shares_members() -> None:
    waiting = torch.ones(9, dtype=torch.bool)
    waiting[8] = False
    units = [torch.tensor(unit) for unit in ([0, 1, 8], [2, 3, 4], [1, 5], [0, 1], [6, 7])]
    assert packed(units, waiting, 4).tolist() == [0, 1, 5]
    assert packed(units, waiting, 5).tolist() == [0, 1, 2, 3, 4]
    assert packed(units, waiting, 9).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert packed([], waiting, 3).tolist() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"competitors": -1}, "competitors: expected at least 0; got -1"),
        ({"hops": 0}, "hops: expected at least 1; got 0"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"environment.init_args.refresh.init_args.{message}"):
        NeighbourhoodRefresh(**arguments)
