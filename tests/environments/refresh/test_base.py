import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from srch3.environments import (
    BaseRefresh,
    ContestedRefresh,
    DriftRefresh,
    FullRefresh,
    NeighbourhoodRefresh,
    NoRefresh,
    OldestRefresh,
    RandomRefresh,
    View,
)
from srch3.environments.touched import Touched
from srch3.errors import ConfigError
from tests.environments.refresh.views import random_view, seen, view
from tests.indexes.clusters import clustered


class Given(BaseRefresh):
    """Ranks what it was given, and remembers the room that it had."""

    def __init__(self, ranked: list[int], sweep: float) -> None:
        super().__init__(sweep)
        self.ranked, self.rooms = torch.tensor(ranked, dtype=torch.int64), list[int]()

    def rank(self, view: View, room: int) -> Tensor:
        self.rooms.append(room)
        return self.ranked


def policies(sweep: float) -> list[BaseRefresh]:
    return [
        OldestRefresh(),
        ContestedRefresh(sweep=sweep),
        RandomRefresh(sweep=sweep),
        NeighbourhoodRefresh(sweep=sweep),
        NeighbourhoodRefresh(hops=2, competitors=2, sweep=sweep),
        DriftRefresh(sweep=sweep),
        DriftRefresh(neighbours=3, sources=4, sweep=sweep),
    ]


def name(policy: BaseRefresh) -> str:
    return f"{type(policy).__name__}-{policy.sweep}"


@pytest.mark.parametrize("policy", policies(0.0) + policies(0.3), ids=name)
@settings(deadline=None, max_examples=20)
@given(st.integers(1, 90), st.integers(0, 100), st.integers(0, 99))
def test_the_budget_is_spent_whole_and_never_exceeded(policy: BaseRefresh, count: int, budget: int, seed: int) -> None:
    shown = random_view(count, seed, positives=min(count, 6))
    rows = policy.select(shown, budget)
    assert len(rows) == min(budget, int((shown.alive & (shown.stamps != 10)).sum()))
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert shown.alive[rows].all()
    assert (shown.stamps[rows] != 10).all()


@pytest.mark.parametrize("policy", [*policies(0.3), NoRefresh(), FullRefresh()], ids=name)
def test_selecting_changes_nothing_and_depends_on_nothing_else(policy: BaseRefresh) -> None:
    shown, before = random_view(80, 1), random_view(80, 1)
    state = copy.deepcopy(vars(policy))
    torch.manual_seed(5)
    first = policy.select(shown, 20)
    policy.select(random_view(60, 2), 30)
    torch.manual_seed(6)
    assert torch.equal(first, policy.select(shown, 20))
    assert vars(policy) == state
    for left, right in zip((*shown.seen, *shown[2:4]), (*before.seen, *before[2:4]), strict=True):
        assert torch.equal(left.nan_to_num(-1), right.nan_to_num(-1))


@pytest.mark.parametrize("policy", [p for p in policies(0.3) if not isinstance(p, RandomRefresh)], ids=name)
@pytest.mark.parametrize("seed", range(3))
def test_another_order_of_the_documents_selects_the_same_documents(policy: BaseRefresh, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = 60
    stamps = torch.randperm(count, generator=generator)
    moved, vectors = torch.rand(count, generator=generator), clustered(count, seed=seed)
    touched = seen(count, 5, 20, seed)
    order = torch.randperm(count, generator=generator)
    place = order.argsort()
    positives, hits = place[touched.positives].sort(), place[touched.hits].sort()
    renamed = Touched(
        positives.values,
        touched.stakes[positives.indices],
        hits.values,
        touched.weights[hits.indices],
        touched.contested[hits.indices],
    )
    rows = policy.select(view(stamps, 70, touched, vectors, moved), 17)
    others = policy.select(view(stamps[order], 70, renamed, vectors[order], moved[order]), 17)
    assert order[others].sort().values.tolist() == rows.tolist()


def simulate(policy: BaseRefresh, count: int, budgets: list[int], seed: int) -> list[int]:
    """The greatest age, in refreshes, after each refresh; some documents are preferred again and again."""
    stamps, moved, ages = torch.zeros(count, dtype=torch.int64), torch.full((count,), torch.nan), []
    vectors = clustered(count)
    for step, budget in enumerate(budgets, start=1):
        touched = seen(count, min(count, 3), 9, seed + step % 2)
        rows = policy.select(view(stamps, step, touched, vectors, moved), budget)
        stamps[rows] = step
        moved[rows] = rows / count
        ages.append(int((step - stamps).max()))
    return ages


@pytest.mark.parametrize("sweep", [0.1, 0.5, 1.0])
@settings(deadline=None, max_examples=4)
@given(st.integers(5, 50), st.integers(1, 20), st.integers(0, 99))
def test_every_age_is_bounded(sweep: float, count: int, budget: int, seed: int) -> None:
    for policy in policies(sweep):
        bound = math.ceil(count / math.ceil(policy.sweep * min(budget, count)))
        ages = simulate(policy, count, [budget] * (2 * bound + 5), seed)
        assert max(ages) < bound


def test_ages_are_bounded_by_the_smallest_budget_where_it_varies() -> None:
    for policy in policies(0.25):
        bound = math.ceil(40 / math.ceil(policy.sweep * 8))
        assert max(simulate(policy, 40, [8, 9, 13, 8, 30, 11] * 8, seed=3)) < bound


def test_without_a_sweep_a_document_may_wait_forever() -> None:
    assert simulate(Given([3, 1, 4], sweep=0.0), 10, [3] * 50, seed=0)[-1] == 50
    assert simulate(NoRefresh(), 10, [3] * 50, seed=0)[-1] == 50


def test_full_refresh_leaves_no_age_whatever_the_budget() -> None:
    assert set(simulate(FullRefresh(), 10, [0, 1, 20], seed=0)) == {0}


def test_preferences_come_first_and_the_sweep_takes_the_oldest_of_the_others() -> None:
    policy = Given([7, 7, 2, 7, 5, 2, 0], sweep=0.4)
    assert policy.select(view([3, 9, 1, 4, 4, 9, 9, 2, 4, 9]), 5).tolist() == [0, 2, 4, 5, 7]
    assert policy.rooms == [3]


def test_room_that_the_ranking_leaves_goes_to_the_oldest_ties_scattered() -> None:
    assert Given([5], sweep=0.0).select(view([5, 3, 5, 3, 1, 8, 3]), 4).tolist() == [1, 4, 5, 6]


def test_documents_without_a_vector_are_the_oldest() -> None:
    assert OldestRefresh().select(view([1, 0, -1, 0, -1, 7]), 3).tolist() == [1, 2, 4]


def test_removed_and_fresh_documents_take_no_room() -> None:
    alive = torch.tensor([True, False, True, True, True])
    assert Given([1, 2, 3], sweep=0.0).select(view([0, 0, 10, 3, 1], alive=alive), 2).tolist() == [0, 3]


def test_a_sweep_of_one_ranks_nothing() -> None:
    policy = Given([1], sweep=1.0)
    assert policy.select(view([0, 5, 5]), 2).tolist() == [0, 2]
    assert policy.select(view([0, 5, 5]), 0).tolist() == []
    assert policy.rooms == []


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="budget: expected at least 0; got -1"):
        OldestRefresh().select(view([0, 5, 5]), -1)


@pytest.mark.parametrize("sweep", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize("policy", [ContestedRefresh, RandomRefresh, NeighbourhoodRefresh, DriftRefresh])
def test_impossible_shares_are_refused(policy: type[BaseRefresh], sweep: float) -> None:
    with pytest.raises(
        ConfigError, match=f"environment.init_args.refresh.init_args.sweep: expected 0 to 1; got {sweep}"
    ):
        policy(sweep=sweep)


def test_rows_of_one_age_are_swept_from_all_over_the_corpus() -> None:
    stamps = torch.zeros(1000, dtype=torch.int64)
    for step in range(1, 21):
        rows = OldestRefresh().select(view(stamps.tolist(), step), 50)
        assert all(4 <= int(part.sum()) <= 6 for part in torch.zeros(1000).index_fill(0, rows, 1).split(100))
        stamps[rows] = step
    assert int(stamps.min()) == 1


@pytest.mark.parametrize(
    ("ranked", "got"),
    [
        (torch.tensor([0, 50]), r"torch.int64 of shape \(2,\) from 0 to 50"),
        (torch.tensor([-1]), r"from -1 to -1"),
        (torch.tensor([0.0]), "torch.float32"),
        (torch.tensor([[0]]), r"shape \(1, 1\)"),
    ],
)
def test_a_policy_of_ones_own_that_names_no_rows_is_named(ranked: Tensor, got: str) -> None:
    policy = Given([], 0.0)
    policy.ranked = ranked
    with pytest.raises(ConfigError, match=f"init_args.refresh: expected rows from Given.rank, int64 from 0 to .*{got}"):
        policy.select(view([0] * 50, step=1), 5)
