import math

import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F

from srch3.functional.language import (
    Direction,
    categorical_kl,
    k3,
    token_cross_entropy,
    token_log_probs,
    token_mean,
)


def logits(rows: int, vocab: int, seed: int) -> Tensor:
    return 2 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def test_cross_entropy_by_hand() -> None:
    losses = token_cross_entropy(tensor([[0.0, 0.0], [math.log(3), 0.0]]), tensor([0, 1]))
    torch.testing.assert_close(losses, tensor([math.log(2), math.log(4)]))


def test_cross_entropy_of_bfloat16_logits_is_computed_in_float32() -> None:
    rough = logits(3, 50, 0).bfloat16()
    targets = tensor([1, 20, 49])
    torch.testing.assert_close(token_cross_entropy(rough, targets), token_cross_entropy(rough.float(), targets))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_log_probs_are_those_of_the_sampling_distribution(temperature: float) -> None:
    raw, targets = logits(5, 11, 1), tensor([0, 3, 10, 5, 5])
    expected = Categorical(logits=raw / temperature).log_prob(targets)
    torch.testing.assert_close(token_log_probs(raw, targets, temperature), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_kl_agrees_with_torch_distributions(direction: Direction) -> None:
    model, reference = logits(6, 13, 2), logits(6, 13, 3)
    p, q = Categorical(logits=reference), Categorical(logits=model)
    expected = kl_divergence(p, q) if direction == "forward" else kl_divergence(q, p)
    torch.testing.assert_close(categorical_kl(model, reference, direction=direction), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("excluded_id", [0, 4, 12])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_kl_renormalises_without_the_excluded_token(direction: Direction, excluded_id: int) -> None:
    model, reference = logits(6, 13, 4), logits(6, 13, 5)
    rest = [token for token in range(13) if token != excluded_id]
    p = Categorical(probs=F.softmax(reference, -1)[:, rest])
    q = Categorical(probs=F.softmax(model, -1)[:, rest])
    expected = kl_divergence(p, q) if direction == "forward" else kl_divergence(q, p)
    measured = categorical_kl(model, reference, excluded_id, direction)
    torch.testing.assert_close(measured, expected, atol=1e-5, rtol=0)


def test_kl_is_blind_to_the_excluded_token_and_sends_it_no_gradient() -> None:
    reference = logits(3, 7, 6)
    model = reference.clone()
    model[:, 2] += 30
    model.requires_grad_()
    divergence = categorical_kl(model, reference, excluded_id=2).sum()
    divergence.backward()
    assert divergence.item() == pytest.approx(0, abs=1e-6)
    assert model.grad is not None
    assert not model.grad[:, 2].any()


def test_kl_gradients() -> None:
    reference = logits(2, 5, 9).double()

    def forward(model: Tensor) -> Tensor:
        return categorical_kl(model, reference, 3, "forward")

    def reverse(model: Tensor) -> Tensor:
        return categorical_kl(model, reference, 3, "reverse")

    model = logits(2, 5, 10).double().requires_grad_()
    assert torch.autograd.gradcheck(forward, (model,))
    assert torch.autograd.gradcheck(reverse, (model,))


def test_k3_by_hand() -> None:
    estimate = k3(tensor([-1.0, -2.0, -0.5]), tensor([-1.0, -1.0, -1.5]))
    torch.testing.assert_close(estimate, tensor([0.0, math.e - 2, math.exp(-1)]))


def test_k3_is_the_divergence_in_expectation() -> None:
    model, reference = logits(4, 9, 11), logits(4, 9, 12)
    p, q = Categorical(logits=model), Categorical(logits=reference)
    mean = (p.probs * k3(p.logits, q.logits)).sum(-1)
    torch.testing.assert_close(mean, kl_divergence(p, q), atol=1e-5, rtol=0)


def test_k3_is_precise_where_the_two_nearly_agree() -> None:
    assert k3(tensor([-2.0]), tensor([-1.999])).item() == pytest.approx(0.001**2 / 2, rel=1e-2)


def test_token_mean_ignores_what_does_not_count_even_nan() -> None:
    values = tensor([[1.0, torch.nan, 3.0], [5.0, torch.inf, torch.nan]], requires_grad=True)
    mean = token_mean(values, tensor([[True, False, True], [True, False, False]]))
    mean.backward()
    assert mean.item() == 3
    assert values.grad is not None
    torch.testing.assert_close(values.grad, tensor([[1.0, 0, 1], [1, 0, 0]]) / 3)


def test_token_mean_of_nothing_is_zero() -> None:
    assert token_mean(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)).item() == 0
