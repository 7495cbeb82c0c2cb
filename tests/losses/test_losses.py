import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import tensor

from srch3.errors import ConfigError
from srch3.functional.contrastive import Targets, info_nce, triplet_margin
from srch3.functional.language import categorical_kl
from srch3.functional.policy import Normaliser
from srch3.functional.similarity import normalise
from srch3.losses import BaseKL, BaseLoss, CrossEntropy, InfoNCE, PolicyLoss, ReferenceKL, TripletMargin

ARGUMENTS: list[tuple[Callable[..., BaseLoss], str]] = [
    (CrossEntropy, "cross_entropy"),
    (BaseKL, "base_kl"),
    (InfoNCE, "info_nce"),
    (TripletMargin, "triplet_margin"),
    (PolicyLoss, "policy_loss"),
    (ReferenceKL, "reference_kl"),
]


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize(("loss", "argument"), ARGUMENTS)
def test_impossible_weights_are_refused_by_their_name(
    loss: Callable[..., BaseLoss], argument: str, weight: float
) -> None:
    message = rf"^model\.init_args\.{argument}\.init_args\.weight: expected a finite number >= 0; got {weight}; [^\n]+$"
    with pytest.raises(ConfigError, match=message):
        loss(weight=weight)


@pytest.mark.parametrize(("loss", "argument"), ARGUMENTS)
def test_a_weight_of_zero_is_allowed_and_shown(loss: Callable[..., BaseLoss], argument: str) -> None:
    assert loss(weight=0.0).weight == 0
    assert "weight=0.0" in repr(loss(weight=0.0))


@pytest.mark.parametrize(
    ("loss", "arguments", "name"),
    [
        (InfoNCE, {"temperature": 0.0}, "info_nce.init_args.temperature"),
        (InfoNCE, {"temperature": -1.0}, "info_nce.init_args.temperature"),
        (InfoNCE, {"temperature": math.nan}, "info_nce.init_args.temperature"),
        (InfoNCE, {"final_weight": math.nan}, "info_nce.init_args.final_weight"),
        (CrossEntropy, {"final_weight": -1.0}, "cross_entropy.init_args.final_weight"),
        (InfoNCE, {"widths": []}, "info_nce.init_args.widths"),
        (TripletMargin, {"margin": -0.1}, "triplet_margin.init_args.margin"),
        (TripletMargin, {"margin": math.inf}, "triplet_margin.init_args.margin"),
        (BaseKL, {"direction": "sideways"}, "base_kl.init_args.direction"),
        (PolicyLoss, {"clip_low": -0.2}, "policy_loss.init_args.clip_low"),
        (PolicyLoss, {"clip_high": math.nan}, "policy_loss.init_args.clip_high"),
        (PolicyLoss, {"ratio": "word"}, "policy_loss.init_args.ratio"),
        (PolicyLoss, {"normaliser": "mean"}, "policy_loss.init_args.normaliser"),
    ],
)
def test_impossible_settings_are_refused_by_their_name(
    loss: Callable[..., BaseLoss], arguments: dict[str, object], name: str
) -> None:
    (value,) = arguments.values()
    with pytest.raises(ConfigError, match=rf"^model\.init_args\.{name}: expected .*; got {re.escape(str(value))}; "):
        loss(**arguments)


def test_losses_have_no_parameters_and_no_state() -> None:
    assert all(not list(loss().parameters()) and not loss().state_dict() for loss, _ in ARGUMENTS)


def test_cross_entropy_is_the_unweighted_mean_over_tokens() -> None:
    loss = CrossEntropy(weight=3.0)(tensor([[0.0, 0.0], [math.log(3), 0.0]]), tensor([0, 1])).mean
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_cross_entropy_weighs_each_token_by_its_importance() -> None:
    logits, targets = tensor([[0.0, 0.0], [math.log(3), 0.0]]), tensor([0, 1])
    total = CrossEntropy()(logits, targets, tensor([3.0, 0.5]))
    assert total.value.item() == pytest.approx(3 * math.log(2) + 0.5 * math.log(4))
    assert total.weight.item() == 3.5


def test_losses_of_no_tokens_are_zero_and_have_gradients() -> None:
    logits = torch.empty(0, 5, requires_grad=True)
    no_tokens = torch.empty(0, dtype=torch.long)
    total = CrossEntropy()(logits, no_tokens).mean + BaseKL()(logits, torch.empty(0, 5), 2).mean
    total.backward()
    assert total.item() == 0


def test_base_kl_passes_direction_and_excluded_token_on() -> None:
    logits, reference = torch.randn(4, 6), torch.randn(4, 6)
    for direction in ("forward", "reverse"):
        expected = categorical_kl(logits, reference, 3, direction).mean()
        torch.testing.assert_close(BaseKL(direction=direction)(logits, reference, 3).mean, expected)
    weighted = BaseKL()(logits, reference, 3, tensor([0.0, 2.0, 0.0, 0.0])).mean
    torch.testing.assert_close(weighted, categorical_kl(logits, reference, 3)[1])
    forward, reverse = BaseKL()(logits, reference, 3), BaseKL(direction="reverse")(logits, reference, 3)
    assert not torch.isclose(forward.mean, reverse.mean)


def targets() -> Targets:
    known = torch.rand(3, 5, generator=torch.Generator().manual_seed(0)) < 0.3
    known[torch.arange(3), tensor([0, 4, 4])] = True
    same = torch.eye(3, dtype=torch.bool)
    return Targets(torch.arange(3), tensor([0, 4, 4]), tensor([1.0, 2.0, 3.0]), known, same)


def test_info_nce_passes_its_settings_on() -> None:
    queries, documents, wanted = normalise(torch.randn(3, 4)), normalise(torch.randn(5, 4)), targets()
    loss = InfoNCE(temperature=0.3, document_document=True)
    expected = info_nce(queries, documents, wanted, 0.3, queries, document_document=True)
    torch.testing.assert_close(loss(queries, documents, wanted, queries), expected)
    assert not torch.isclose(loss(queries, documents, wanted).value, expected.value)


def test_matryoshka_is_the_mean_over_truncated_and_full_embeddings() -> None:
    queries, documents, wanted = normalise(torch.randn(3, 4)), normalise(torch.randn(5, 4)), targets()
    parts = [
        info_nce(normalise(queries[:, :width]), normalise(documents[:, :width]), wanted, 0.05).value
        for width in (1, 3, 4)
    ]
    loss = InfoNCE(widths=[3, 1, 3])(queries, documents, wanted)
    torch.testing.assert_close(loss.value, torch.stack(parts).mean())
    assert loss.weight == 6
    with pytest.raises(ConfigError, match=r"widths: expected widths below the model's own, 4; got \[2, 4\]"):
        InfoNCE(widths=[4, 2])(queries, documents, wanted)


def test_triplet_margin_passes_its_margin_on() -> None:
    queries, documents, wanted = normalise(torch.randn(3, 4)), normalise(torch.randn(5, 4)), targets()
    expected = triplet_margin(queries, documents, wanted, 0.9)
    torch.testing.assert_close(TripletMargin(margin=0.9)(queries, documents, wanted), expected)


@pytest.mark.parametrize("loss", [CrossEntropy, BaseKL, InfoNCE, TripletMargin])
def test_a_weight_may_change_as_training_goes_on(loss: Callable[..., BaseLoss]) -> None:
    ramped = loss(weight=1.0, final_weight=0.0, ramp=(0.2, 0.6))
    assert [ramped.weight_at(done) for done in (0.0, 0.2, 0.3, 0.4, 0.6, 1.0)] == pytest.approx([1, 1, 0.75, 0.5, 0, 0])
    assert ramped.changes
    assert ramped.used
    assert "weight=1.0->0.0 over [0.2, 0.6]" in repr(ramped)
    assert loss(weight=0.0, final_weight=2.0).used
    assert not loss(weight=0.0).used
    assert not loss(weight=0.7).changes
    assert loss(weight=0.7).weight_at(0.9) == 0.7


@pytest.mark.parametrize("ramp", [(0.5, 0.5), (0.6, 0.2), (-0.1, 1.0), (0.0, 1.1), (0.0, math.nan)])
def test_a_ramp_lies_within_training(ramp: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=r"info_nce\.init_args\.ramp: expected two numbers a, b with 0 <= a < b <= 1"):
        InfoNCE(final_weight=0.0, ramp=ramp)
    with pytest.raises(ConfigError, match=r"ramp: expected final_weight beside it; got \[0.2, 0.8\]"):
        InfoNCE(ramp=(0.2, 0.8))


def test_policy_loss_passes_its_settings_on() -> None:
    logp, old, mask = tensor([[2.0, 0.1]]).log(), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    loss = PolicyLoss(clip_low=0.3, clip_high=0.5)
    for advantage, expected in ((1.0, -(1.5 + 0.1) / 8), (-1.0, (2.0 + 0.7) / 8)):
        assert loss(logp, old, tensor([advantage]), mask, 4, tensor(8.0)).loss.item() == pytest.approx(expected)
    sequence = PolicyLoss(ratio="sequence", normaliser="dr_grpo", clip_low=1.0)
    assert sequence(logp, old, tensor([1.0]), mask, 4).loss.item() == pytest.approx(-2 * 0.2**0.5 / 4)


@pytest.mark.parametrize(("normaliser", "expected"), [("grpo", 1.0), ("dapo", 2.0), ("dr_grpo", 1.0)])
def test_policy_loss_counts_what_it_divides_by(normaliser: Normaliser, expected: float) -> None:
    mask = tensor([[True, True], [False, False]])
    assert PolicyLoss(normaliser=normaliser).count(mask).item() == expected


def test_reference_kl_is_averaged_as_the_policy_loss_is() -> None:
    logp, reference = tensor([[-1.0, -2.0, -0.5], [0.0, 0.0, 0.0]]), tensor([[-1.0, -1.0, -1.5], [1.0, 0.0, 0.0]])
    mask = tensor([[True, True, False], [True, False, False]])
    divergences: dict[Normaliser, float] = {"grpo": (1 / 2 + 1) / 2, "dapo": 2 / 3, "dr_grpo": (1 / 5 + 1 / 5) / 2}
    for normaliser, expected in divergences.items():
        kl = ReferenceKL()(logp, reference, mask, normaliser, 5)
        assert kl.item() == pytest.approx(expected * (math.e - 2), abs=1e-6)
    assert ReferenceKL()(logp, reference, mask, "dapo", 5, tensor(10.0)).item() == pytest.approx((math.e - 2) / 5)
    assert ReferenceKL().weight == 0.04
