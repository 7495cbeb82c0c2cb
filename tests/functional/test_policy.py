import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, tensor

from srch3.functional.policy import Normaliser, PolicyTerms, Ratio, clipped_policy_loss, count, normalised

NORMALISERS: list[Normaliser] = list(get_args(Normaliser))
RATIOS: list[Ratio] = list(get_args(Ratio))


def slow_mean(values: list[list[float]], normaliser: str, max_tokens: int) -> float:
    """The mean over what counts, as the papers write it; each list holds the counted tokens of a completion."""
    completions = [tokens for tokens in values if tokens]
    if normaliser == "dapo":
        return sum(map(sum, completions)) / sum(map(len, completions))
    lengths = [len(tokens) if normaliser == "grpo" else max_tokens for tokens in completions]
    return sum(sum(tokens) / length for tokens, length in zip(completions, lengths, strict=True)) / len(completions)


def slow_terms(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, max_tokens: int, **settings: Any
) -> list[float]:
    """The objective one token at a time, and the shares of tokens without a gradient."""
    losses: list[list[float]] = []
    low, high, ratios = 0, 0, []
    for row, advantage in enumerate(advantages.tolist()):
        places = [column for column in range(logp.shape[1]) if mask[row, column]]
        differences = [float(logp[row, column]) - float(old_logp[row, column]) for column in places]
        if settings["ratio"] == "sequence":
            differences = [sum(differences) / max(len(differences), 1)] * len(differences)
        losses.append([])
        for difference in differences:
            ratio = math.exp(difference)
            clipped = min(max(ratio, 1 - settings["clip_low"]), 1 + settings["clip_high"])
            losses[-1].append(-min(ratio * advantage, clipped * advantage))
            low += advantage < 0 and ratio < 1 - settings["clip_low"]
            high += advantage > 0 and ratio > 1 + settings["clip_high"]
            ratios.append(ratio)
    shares = [figure / len(ratios) for figure in (low, high, sum(ratios))]
    return [slow_mean(losses, settings["normaliser"], max_tokens), *shares]


def test_token_ratios_by_hand() -> None:
    logp = tensor([[1.5, 1.0, 9.9], [0.5, 1.5, 0.5]]).log()
    mask = tensor([[True, True, False], [True, True, True]])
    advantages = tensor([2.0, -1.0])
    # Losses: −1.28·2 (clipped), −1·2; 0.8 (clipped), 1.5, 0.8 (clipped).
    expected = {"dapo": -1.46 / 5, "grpo": (-4.56 / 2 + 3.1 / 3) / 2, "dr_grpo": (-4.56 / 8 + 3.1 / 8) / 2}
    for normaliser in NORMALISERS:
        terms = clipped_policy_loss(logp, torch.zeros(2, 3), advantages, mask, 8, clip_high=0.28, normaliser=normaliser)
        assert terms.loss.item() == pytest.approx(expected[normaliser], abs=1e-6)
        assert terms.clipped_high.item() == pytest.approx(1 / 5)
        assert terms.clipped_low.item() == pytest.approx(2 / 5)
        assert terms.clipped_share.item() == pytest.approx(3 / 5)
        assert terms.ratio.item() == pytest.approx(5 / 5)


def test_sequence_ratios_by_hand() -> None:
    logp = tensor([[4.0, 1.0, 9.9], [0.9, 0.9, 0.9]]).log()
    mask = tensor([[True, True, False], [True, True, True]])
    terms = clipped_policy_loss(
        logp, torch.zeros(2, 3), tensor([1.0, 3.0]), mask, 8, clip_high=0.5, ratio="sequence", normaliser="grpo"
    )
    # Ratios are the geometric means 2 and 0.9; the first is clipped to 1.5.
    assert terms.loss.item() == pytest.approx(-(1.5 + 0.9 * 3) / 2, abs=1e-6)
    assert (terms.clipped_low.item(), terms.clipped_high.item()) == (0.0, pytest.approx(2 / 5))
    assert terms.ratio.item() == pytest.approx((2 + 2 + 3 * 0.9) / 5)


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (0.0, 0.5)])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_terms_agree_with_a_loop(normaliser: Normaliser, ratio: Ratio, low: float, high: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logp, old = -2 * torch.rand(2, 7, 9, generator=generator)
    advantages = torch.randn(7, generator=generator)
    mask = torch.rand(7, 9, generator=generator) < 0.5
    mask[3] = False
    settings: dict[str, Any] = {"clip_low": low, "clip_high": high, "ratio": ratio, "normaliser": normaliser}
    terms = clipped_policy_loss(logp, old, advantages, mask, 12, **settings)
    torch.testing.assert_close(
        torch.stack(terms), tensor(slow_terms(logp, old, advantages, mask, 12, **settings)), atol=1e-6, rtol=0
    )
    assert 0 < terms.clipped_share.item() < 1


@pytest.mark.parametrize(
    ("normaliser", "shares"),
    [
        ("grpo", [[0.25, 0.25, 0.0], [0.5, 0.0, 0.0]]),
        ("dapo", [[1 / 3, 1 / 3, 0.0], [1 / 3, 0.0, 0.0]]),
        ("dr_grpo", [[0.125, 0.125, 0.0], [0.125, 0.0, 0.0]]),
    ],
)
@pytest.mark.parametrize("ratio", RATIOS)
def test_the_first_update_is_the_policy_gradient(
    ratio: Ratio, normaliser: Normaliser, shares: list[list[float]]
) -> None:
    logp = torch.randn(2, 3).log_softmax(-1).requires_grad_()
    advantages, mask = tensor([1.0, -2.0]), tensor([[True, True, False], [True, False, False]])
    terms = clipped_policy_loss(logp, logp.detach(), advantages, mask, 4, ratio=ratio, normaliser=normaliser)
    terms.loss.backward()
    assert terms.clipped_share.item() == 0
    assert terms.ratio.item() == 1
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, -advantages[:, None] * tensor(shares))


def test_a_sequence_moves_as_a_whole() -> None:
    logp = tensor([[1.5, 0.5, 7.0]]).log().requires_grad_()
    mask = tensor([[True, True, False]])
    old, gain = torch.zeros(1, 3), tensor([1.0])
    clipped_policy_loss(logp, old, gain, mask, 3, ratio="sequence", normaliser="grpo").loss.backward()
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, tensor([[-0.5, -0.5, 0.0]]) * 0.75**0.5)


def test_clipped_tokens_have_no_gradient_and_others_do() -> None:
    logp = tensor([[1.5, 0.5]]).log().requires_grad_()
    mask = torch.ones(1, 2, dtype=torch.bool)
    clipped_policy_loss(logp, torch.zeros(1, 2), tensor([1.0]), mask, 2).loss.backward()
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, tensor([[0.0, -0.25]]))


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_tokens_that_do_not_count_may_be_anything(normaliser: Normaliser, ratio: Ratio) -> None:
    logp = tensor([[-1.0, torch.nan], [-1.0, -torch.inf], [torch.nan, torch.nan]], requires_grad=True)
    old = tensor([[-1.0, -1.0], [-1.0, -torch.inf], [0.0, 0.0]])
    mask = tensor([[True, False], [True, False], [False, False]])
    advantages = tensor([1.0, -3.0, 9.0])
    terms = clipped_policy_loss(logp, old, advantages, mask, 1, ratio=ratio, normaliser=normaliser)
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx(1.0)
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, tensor([[-0.5, 0.0], [1.5, 0.0], [0.0, 0.0]]))


def test_counts_by_hand() -> None:
    mask = tensor([[True, True, False], [False, False, False], [True, False, False]])
    assert [count(mask, normaliser).item() for normaliser in NORMALISERS] == [2.0, 3.0, 2.0]


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_completions_that_are_left_out_change_nothing(normaliser: Normaliser) -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(5, 4, generator=generator)
    mask = torch.rand(5, 4, generator=generator) < 0.8
    kept = tensor([0, 2, 3])
    left_out = mask & torch.isin(torch.arange(5), kept)[:, None]
    expected = normalised(values[kept], mask[kept], normaliser, 6)
    torch.testing.assert_close(normalised(values, left_out, normaliser, 6), expected, atol=1e-6, rtol=0)
    assert (normalised(values, mask, normaliser, 6) - expected).abs() > 1e-3


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_the_mean_of_the_ranks_gradients_is_that_of_the_whole_batch(normaliser: Normaliser, ratio: Ratio) -> None:
    generator = torch.Generator().manual_seed(1)
    old = -torch.rand(6, 5, generator=generator)
    weight = torch.zeros((), requires_grad=True)
    steps, advantages = torch.randn(6, 5, generator=generator), torch.randn(6, generator=generator)
    mask = torch.rand(6, 5, generator=generator) < 0.5
    mask[4:] = False

    def gradient(rows: slice, total: Tensor | None) -> Tensor:
        terms = clipped_policy_loss(
            (old + weight * steps)[rows], old[rows], advantages[rows], mask[rows], 7, total, ratio=ratio,
            normaliser=normaliser,
        )  # fmt: skip
        return torch.autograd.grad(terms.loss, weight)[0]

    ranks = [slice(0, 1), slice(1, 4), slice(4, 6)]
    total = torch.stack([count(mask[rows], normaliser) for rows in ranks]).mean()
    mean = torch.stack([gradient(rows, total) for rows in ranks]).mean()
    torch.testing.assert_close(mean, gradient(slice(0, 6), None), atol=1e-6, rtol=0)


def test_a_mean_count_below_one_is_no_less_exact() -> None:
    mask = tensor([[True, True]])
    assert normalised(tensor([[1.0, 3.0]]), mask, "grpo", 2, tensor(0.5)).item() == 4.0


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("total", [None, 0.0, tensor(0.0)])
def test_a_batch_in_which_no_token_counts_is_worth_zero(normaliser: Normaliser, total: Tensor | float | None) -> None:
    logp = torch.zeros(2, 3, requires_grad=True)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    terms = clipped_policy_loss(logp, torch.zeros(2, 3), torch.ones(2), nothing, 3, total, normaliser=normaliser)
    terms.loss.backward()
    assert [float(term.detach()) for term in terms] == [0.0, 0.0, 0.0, 0.0]
    assert logp.grad is not None
    assert not logp.grad.any()


def test_the_loss_alone_has_a_gradient() -> None:
    logp = torch.zeros(1, 2, requires_grad=True)
    terms = clipped_policy_loss(logp, logp.detach(), torch.ones(1), torch.ones(1, 2, dtype=torch.bool), 2)
    assert PolicyTerms(*(term.requires_grad for term in terms)) == (True, False, False, False)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_gradients(normaliser: Normaliser, ratio: Ratio) -> None:
    generator = torch.Generator().manual_seed(2)
    old = -torch.rand(3, 4, generator=generator, dtype=torch.float64)
    logp = (old + 0.5 * torch.randn(3, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    advantages = torch.randn(3, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 4, generator=generator) < 0.8

    def loss(logp: Tensor) -> Tensor:
        return clipped_policy_loss(
            logp, old, advantages, mask, 5, clip_high=0.3, ratio=ratio, normaliser=normaliser
        ).loss

    assert torch.autograd.gradcheck(loss, (logp,))
