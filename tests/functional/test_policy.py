import math

import pytest
import torch
from torch import Tensor, tensor

from srch3.functional.policy import clipped_policy_loss


def slow_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, low: float, high: float
) -> tuple[float, float]:
    """The objective as PPO writes it, one token at a time, and the share of tokens without a gradient."""
    objective, stopped, tokens = 0.0, 0, 0
    for row, advantage in enumerate(advantages.tolist()):
        for token in range(logp.shape[1]):
            if not mask[row, token]:
                continue
            tokens += 1
            ratio = math.exp(logp[row, token].item() - old_logp[row, token].item())
            clipped = min(max(ratio, 1 - low), 1 + high)
            objective += min(ratio * advantage, clipped * advantage)
            stopped += (advantage > 0 and ratio > 1 + high) or (advantage < 0 and ratio < 1 - low)
    return -objective / tokens, stopped / tokens


def test_loss_by_hand() -> None:
    logp = tensor([[1.5, 1.0, 9.9], [0.5, 1.5, 0.5]]).log()
    mask = tensor([[True, True, False], [True, True, True]])
    terms = clipped_policy_loss(logp, torch.zeros(2, 3), tensor([2.0, -1.0]), mask, clip_low=0.2, clip_high=0.28)
    # Gains: 1.28·2 (clipped), 1·2; −0.8 (clipped), −1.5, −0.8 (clipped).
    assert terms.loss.item() == pytest.approx(-(2.56 + 2 - 0.8 - 1.5 - 0.8) / 5, abs=1e-6)
    assert terms.clipped_share.item() == pytest.approx(3 / 5)


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (0.0, 0.5)])
def test_loss_agrees_with_a_loop(low: float, high: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logp, old = -torch.rand(2, 7, 9, generator=generator)
    advantages = torch.randn(7, generator=generator)
    mask = torch.rand(7, 9, generator=generator) < 0.7
    terms = clipped_policy_loss(logp, old, advantages, mask, low, high)
    loss, share = slow_loss(logp, old, advantages, mask, low, high)
    assert terms.loss.item() == pytest.approx(loss, abs=1e-6)
    assert terms.clipped_share.item() == pytest.approx(share, abs=1e-6)
    assert 0 < share < 1


def test_first_update_is_the_policy_gradient() -> None:
    logp = torch.randn(3, 4).log_softmax(-1).requires_grad_()
    advantages, mask = tensor([1.0, -2.0, 0.5]), torch.ones(3, 4, dtype=torch.bool)
    terms = clipped_policy_loss(logp, logp.detach(), advantages, mask)
    terms.loss.backward()
    assert terms.clipped_share.item() == 0
    assert terms.loss.item() == pytest.approx(-advantages.mean().item(), abs=1e-6)
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, (-advantages / 12)[:, None].expand(3, 4))


def test_clipped_tokens_have_no_gradient_and_others_do() -> None:
    logp = tensor([[1.5, 0.5]]).log().requires_grad_()
    mask = torch.ones(1, 2, dtype=torch.bool)
    clipped_policy_loss(logp, torch.zeros(1, 2), tensor([1.0]), mask).loss.backward()
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, tensor([[0.0, -0.25]]))


def test_tokens_that_do_not_count_may_be_anything() -> None:
    logp = tensor([[-1.0, torch.nan], [-1.0, -torch.inf]], requires_grad=True)
    old = tensor([[-1.0, -1.0], [-1.0, -torch.inf]])
    mask = tensor([[True, False], [True, False]])
    terms = clipped_policy_loss(logp, old, tensor([1.0, -3.0]), mask)
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx(1.0)
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, tensor([[-0.5, 0.0], [1.5, 0.0]]))


def test_parts_of_a_batch_add_up_under_the_count_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(1)
    logp, old = -torch.rand(2, 6, 5, generator=generator)
    advantages = torch.randn(6, generator=generator)
    mask = torch.rand(6, 5, generator=generator) < 0.5
    whole = clipped_policy_loss(logp, old, advantages, mask).loss
    count = mask.sum()
    parts = [
        clipped_policy_loss(logp[rows], old[rows], advantages[rows], mask[rows], divisor=count).loss
        for rows in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    torch.testing.assert_close(sum(parts), whole, atol=1e-6, rtol=0)


def test_a_batch_in_which_no_token_counts_is_worth_zero() -> None:
    logp = torch.zeros(2, 3, requires_grad=True)
    terms = clipped_policy_loss(logp, torch.zeros(2, 3), torch.ones(2), torch.zeros(2, 3, dtype=torch.bool))
    terms.loss.backward()
    assert terms.loss.item() == 0
    assert terms.clipped_share.item() == 0


def test_clipped_share_has_no_gradient() -> None:
    logp = torch.zeros(1, 2, requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert not clipped_policy_loss(logp, logp.detach(), torch.ones(1), mask).clipped_share.requires_grad


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(2)
    old = -torch.rand(3, 4, generator=generator, dtype=torch.float64)
    logp = (old + 0.5 * torch.randn(3, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    advantages = torch.randn(3, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 4, generator=generator) < 0.8

    def loss(logp: Tensor) -> Tensor:
        return clipped_policy_loss(logp, old, advantages, mask, 0.2, 0.3).loss

    assert torch.autograd.gradcheck(loss, (logp,))
