import pytest
import torch

from srch3.environments import FullRefresh, NoRefresh, OldestRefresh, RandomRefresh
from srch3.errors import ConfigError
from tests.environments.refresh.views import view


def test_all_and_nothing_whatever_the_budget() -> None:
    alive = torch.tensor([True, True, False, True])
    for budget in (0, 1, 9):
        assert FullRefresh().select(view([1, 2, 3, 10], alive=alive), budget).tolist() == [0, 1]
        assert NoRefresh().select(view([1, 2, 3, 10], alive=alive), budget).tolist() == []


def test_the_oldest_come_first() -> None:
    assert OldestRefresh().select(view([4, 2, 9, 1, 2, 2]), 3).tolist() == [3, 4, 5]


def test_rankings_say_the_same_as_selections() -> None:
    shown = view([4, 2, 9, 1])
    assert OldestRefresh().rank(shown, 1).tolist() == [3, 1, 0, 2]
    assert FullRefresh().rank(shown, 1).tolist() == [0, 1, 2, 3]
    assert NoRefresh().rank(shown, 1).tolist() == []


def test_random_draws_follow_seed_and_step() -> None:
    draws = {
        (seed, step): tuple(RandomRefresh(seed, sweep=0.0).select(view([0] * 100, step), 20).tolist())
        for seed in (0, 1, 2**32)
        for step in (1, 2)
    }
    assert len(set(draws.values())) == 6
    assert draws[1, 2] == tuple(RandomRefresh(1, sweep=0.0).select(view([0] * 100, 2), 20).tolist())


def test_random_draws_are_even() -> None:
    counts = torch.zeros(50)
    for step in range(1, 1001):
        counts[RandomRefresh(sweep=0.0).select(view([0] * 50, step), 10)] += 1
    assert counts.sum() == 10_000
    deviation = (1000 * 0.2 * 0.8) ** 0.5
    assert (counts - 200).abs().max() < 4 * deviation


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed: expected at least 0; got -1"):
        RandomRefresh(seed=-1)
