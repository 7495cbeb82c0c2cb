import statistics

import pytest
import torch
from torch import tensor

from srch3.errors import NumericError
from srch3.functional.advantages import group_advantages


def test_advantages_by_hand() -> None:
    advantages, active = group_advantages(tensor([1.0, 2.0, 3.0, 0.0, 4.0]), tensor([7, 7, 7, 2, 2]))
    one, two = 1 / 1.0001, 2 / (8**0.5 + 1e-4)
    torch.testing.assert_close(advantages, tensor([-one, 0.0, one, -two, two]))
    assert active.all()


def test_advantages_without_the_std_are_centred_rewards() -> None:
    advantages, _ = group_advantages(tensor([1.0, 2.0, 6.0, 0.0, 4.0]), tensor([0, 0, 0, 1, 1]), scale_by_std=False)
    torch.testing.assert_close(advantages, tensor([-2.0, -1.0, 3.0, -2.0, 2.0]))


@pytest.mark.parametrize("scale_by_std", [True, False])
def test_advantages_agree_with_a_loop_over_unequal_and_scattered_groups(scale_by_std: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(40, generator=generator)
    groups = torch.randint(0, 5, (40,), generator=generator) * 1000
    expected = []
    for reward, group in zip(rewards.tolist(), groups.tolist(), strict=True):
        peers = [peer for peer, other in zip(rewards.tolist(), groups.tolist(), strict=True) if other == group]
        spread = statistics.stdev(peers) + 1e-4 if scale_by_std else 1.0
        expected.append((reward - statistics.fmean(peers)) / spread)
    advantages, active = group_advantages(rewards, groups, scale_by_std)
    torch.testing.assert_close(advantages, tensor(expected), atol=1e-5, rtol=0)
    assert active.all()


def test_equal_rewards_are_inactive_and_teach_nothing() -> None:
    rewards = tensor([0.3, 0.3 + 5e-7, 0.3, 0.1, 0.2])
    advantages, active = group_advantages(rewards, tensor([0, 0, 0, 1, 1]))
    assert active.tolist() == [False, False, False, True, True]
    assert advantages[:3].tolist() == [0.0, 0.0, 0.0]


def test_eps_is_the_spread_below_which_a_group_is_inactive() -> None:
    rewards, groups = tensor([0.0, 0.1, 0.0, 0.3]), tensor([0, 0, 1, 1])
    assert group_advantages(rewards, groups, eps=0.2).active.tolist() == [False, False, True, True]


@pytest.mark.parametrize("scale_by_std", [True, False])
def test_a_completion_alone_in_its_group_is_inactive(scale_by_std: bool) -> None:
    advantages, active = group_advantages(tensor([5.0]), tensor([0]), scale_by_std)
    assert advantages.tolist() == [0.0]
    assert active.tolist() == [False]


def test_advantages_follow_the_completions_when_they_are_reordered() -> None:
    rewards, groups = tensor([1.0, 5.0, 2.0, 8.0, 3.0]), tensor([0, 1, 0, 1, 0])
    order = tensor([4, 2, 0, 3, 1])
    moved = group_advantages(rewards[order], groups[order]).advantages
    torch.testing.assert_close(moved, group_advantages(rewards, groups).advantages[order])


def test_scaled_advantages_shrink_only_where_rewards_hardly_differ() -> None:
    rewards, groups = tensor([0.1, 0.2, 1.0, 3.0]).double(), tensor([0, 0, 1, 1])
    scaled = [group_advantages(scale * rewards, groups).advantages.abs() for scale in (1e3, 1.0, 1e-3)]
    torch.testing.assert_close(scaled[0], torch.full((4,), 0.5**0.5).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled[1] / scaled[0], tensor([1, 1, 1, 1]).double(), atol=2e-3, rtol=0)
    assert scaled[2][0] < 0.5 * scaled[0][0]
    assert scaled[2][2] > 0.9 * scaled[0][2]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_rewards_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(NumericError, match="got 1 of 3 NaN or infinite"):
        group_advantages(tensor([0.1, bad, 0.2]), tensor([0, 0, 0]))
