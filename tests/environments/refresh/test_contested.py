import torch

from srch3.environments import ContestedRefresh
from srch3.environments.touched import Touched
from tests.environments.refresh.views import Exhaustive, view

SEEN = Touched(
    positives=torch.tensor([2, 5, 8]),
    stakes=torch.tensor([0.1, 0.9, 0.4], dtype=torch.float64),
    hits=torch.tensor([1, 3, 5, 6, 9]),
    weights=torch.tensor([9.0, 0.0, 9.0, 0.0, 0.0], dtype=torch.float64),
    contested=torch.tensor([0.2, 0.3, 0.0, 0.7, 0.3], dtype=torch.float64),
)


def test_positives_come_by_stake_then_hits_by_contest_ties_by_row() -> None:
    assert ContestedRefresh().rank(view([0] * 10, seen=SEEN), 4).tolist() == [5, 8, 2, 6, 3, 9, 1, 5]


def test_a_budget_goes_to_both_and_the_oldest() -> None:
    policy, stamps = ContestedRefresh(sweep=0.25), [1, 4, 4, 4, 0, 4, 4, 1, 4, 4]
    chosen = {budget: policy.select(view(stamps, seen=SEEN), budget).tolist() for budget in (1, 2, 4, 6, 10)}
    assert chosen == {1: [4], 2: [4, 5], 4: [2, 4, 5, 8], 6: [0, 2, 4, 5, 6, 8], 10: list(range(10))}


def test_a_positive_counts_once_and_documents_that_are_up_to_date_need_no_room() -> None:
    shown = view([0, 0, 10, 0, 0, 0, 0, 0, 10, 0], seen=SEEN)
    assert ContestedRefresh(sweep=0).select(shown, 3).tolist() == [3, 5, 6]


def test_where_nothing_was_touched_the_oldest_are_chosen() -> None:
    assert ContestedRefresh().select(view([3, 1, 2, 1]), 3).tolist() == [1, 2, 3]


def test_it_has_no_searches_of_its_own() -> None:
    shown = view([0] * 10, seen=SEEN)
    ContestedRefresh().select(shown, 5)
    assert isinstance(shown.searcher, Exhaustive)
    assert shown.searcher.queries == 0
