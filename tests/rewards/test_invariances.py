"""Every reward against loops over plain numbers, and what all of them have in common."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import tensor

from srch3.rewards import (
    BaseReward,
    Contrastive,
    Format,
    Length,
    LogRank,
    Margin,
    RankingReward,
    RankMargin,
    ScaledDCG,
    SimilarityRank,
    Truncation,
)
from srch3.types import Outcome
from tests.rewards.outcomes import outcome, random_outcome, reordered

RANKING: list[type[RankingReward]] = [ScaledDCG, LogRank, Margin, RankMargin, SimilarityRank, Contrastive]
VARIANTS: dict[str, Callable[..., BaseReward]] = {
    **{kind.__name__: kind for kind in (*RANKING, Format, Length, Truncation)},
    "difference": partial(Margin, clipped=False),
    "softmax": partial(RankMargin, negative_temperature=0.5),
    "shallow": partial(RankMargin, k=5, top=2),
}


def slow(name: str, judged: Outcome, row: int) -> float:
    """One completion's reward, by loops over plain numbers."""
    scores, grades = judged.hits.scores[row].tolist(), judged.grades[row].tolist()
    hits = list(zip(scores, grades, strict=True))[: 5 if name == "shallow" else None]
    good = [score for score, grade in hits if grade > 0]
    bad = [score for score, grade in hits if grade == 0] or [hits[-1][0]]
    positive = float(judged.positive_scores[row])
    rank = next((place for place, (_, grade) in enumerate(hits, 1) if grade > 0), len(hits) + 1)
    match name:
        case "ScaledDCG":
            return sum(grade * max(score, 0) / math.log2(place + 1) for place, (score, grade) in enumerate(hits, 1))
        case "LogRank":
            return 1 - math.log(min(rank, len(hits))) / math.log(len(hits))
        case "Margin":
            return max(0.0, positive - max(bad))
        case "difference":
            return positive - max(bad)
        case "RankMargin" | "softmax" | "shallow":
            top = 2 if name == "shallow" else 8
            early = sum(grade > 0 for _, grade in hits[:top])
            weights = [math.exp(score / 0.5) if name == "softmax" else 1.0 for score in bad]
            mean = sum(weight * score for weight, score in zip(weights, bad, strict=True)) / sum(weights)
            return early / min(top, len(good)) * (sum(good) / len(good) - mean) if good else 0.0
        case "SimilarityRank":
            others = [(place, score) for place, (score, grade) in enumerate(hits, 1) if grade == 0]
            penalty = sum(score * (math.log(place) - 1) for place, score in others)
            return positive / (1 + math.log(rank)) - 0.001 * penalty
        case "Contrastive":
            return (positive - max(bad) + 0.2 * slow_consistency(judged, row)) / 0.1
    raise AssertionError(name)


def slow_consistency(judged: Outcome, row: int) -> float:
    cosines: dict[int, list[float]] = {}
    for other in range(len(judged.groups)):
        if other != row and judged.emitted[other]:
            cosine = float(judged.embeddings[row] @ judged.embeddings[other])
            cosines.setdefault(int(judged.groups[other]), []).append(cosine)
    siblings = cosines.pop(int(judged.groups[row]), [])
    near = sum(siblings) / len(siblings) if siblings else 0.0
    return near - (sum(map(max, cosines.values())) / len(cosines) if cosines else 0.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in {"Format", "Length", "Truncation"}])
def test_rewards_equal_a_slow_loop(name: str, seed: int) -> None:
    judged = random_outcome(seed=seed)
    expected = [slow(name, judged, row) for row in range(len(judged.groups))]
    missing = VARIANTS[name]().missing
    expected = [value if emitted else missing for value, emitted in zip(expected, judged.emitted, strict=True)]
    torch.testing.assert_close(VARIANTS[name]()(judged), tensor(expected), atol=1e-5, rtol=1e-5)
    assert len(set(expected)) > 3


# What all rewards have in common


@pytest.mark.parametrize("name", VARIANTS)
def test_the_order_of_rollouts_and_the_numbers_of_groups_do_not_matter(name: str) -> None:
    judged = random_outcome()
    reward, order = VARIANTS[name](), torch.randperm(24, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(reward(reordered(judged, order)), reward(judged)[order])
    renumbered = judged._replace(groups=100 - 5 * judged.groups)
    torch.testing.assert_close(reward(renumbered), reward(judged))


@pytest.mark.parametrize("name", VARIANTS)
def test_rewards_are_float32_without_gradient(name: str) -> None:
    judged = random_outcome()
    judged = judged._replace(
        hits=judged.hits._replace(scores=judged.hits.scores.double().requires_grad_()),
        embeddings=judged.embeddings.clone().requires_grad_(),
        positive_scores=judged.positive_scores.double().requires_grad_(),
    )
    for earned in (VARIANTS[name]()(judged), *VARIANTS[name]().with_parts(judged)[1].values()):
        assert earned.dtype is torch.float32
        assert not earned.requires_grad
        assert earned.shape == (24,)


@pytest.mark.parametrize("name", VARIANTS)
def test_mixed_precision_does_not_round_rewards(name: str) -> None:
    judged = random_outcome()
    expected = VARIANTS[name]()(judged)
    with torch.autocast("cpu", torch.bfloat16):
        assert VARIANTS[name]()(judged).equal(expected)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_weight_multiplies_and_parts_are_as_they_were(name: str) -> None:
    judged = random_outcome()
    plain, heavy = VARIANTS[name](), VARIANTS[name](weight=3.0)
    torch.testing.assert_close(heavy(judged), 3 * plain(judged))
    ((part, earned),) = heavy.with_parts(judged)[1].items()
    assert part == heavy.name
    torch.testing.assert_close(earned, plain(judged))


def test_names_are_those_of_the_classes() -> None:
    assert [kind().name for kind in RANKING] == [
        "scaled_dcg",
        "log_rank",
        "margin",
        "rank_margin",
        "similarity_rank",
        "contrastive",
    ]


@pytest.mark.parametrize("kind", RANKING)
def test_only_the_first_k_hits_are_judged(kind: type[RankingReward]) -> None:
    judged = random_outcome()
    judged.grades[:12, :4] = 1
    judged.grades[:12, 4] = 0
    cut = judged._replace(
        hits=judged.hits._replace(rows=judged.hits.rows[:, :4], scores=judged.hits.scores[:, :4]),
        grades=judged.grades[:, :4],
    )
    reward = partial(kind, top=2) if kind is RankMargin else kind
    torch.testing.assert_close(reward(k=4)(judged), reward(k=4)(cut))
    assert not reward(k=4)(judged).equal(reward(k=9)(judged))


@pytest.mark.parametrize("kind", RANKING)
def test_completions_without_the_embed_token_earn_what_is_set(kind: type[RankingReward]) -> None:
    judged = random_outcome()
    silent = ~judged.emitted
    assert 0 < silent.sum() < 24
    default = 0.0 if kind in {ScaledDCG, LogRank, RankMargin} else -1.0
    assert set(kind()(judged)[silent].tolist()) == {default}
    assert set(kind(missing=-0.5)(judged)[silent].tolist()) == {-0.5}
    assert set(kind(missing=-0.5, weight=2.0)(judged)[silent].tolist()) == {-1.0}
    torch.testing.assert_close(kind(missing=-0.5)(judged)[judged.emitted], kind()(judged)[judged.emitted])


@pytest.mark.parametrize("kind", RANKING)
def test_what_a_missing_search_holds_does_not_matter(kind: type[RankingReward]) -> None:
    judged = random_outcome()
    broken = torch.where(judged.emitted, 1.0, torch.nan)
    poisoned = judged._replace(
        hits=judged.hits._replace(scores=judged.hits.scores * broken[:, None]),
        embeddings=judged.embeddings * broken[:, None],
        positive_scores=judged.positive_scores * broken,
    )
    torch.testing.assert_close(kind()(poisoned), kind()(judged))


def test_a_lonely_completion_has_no_siblings_and_no_rivals() -> None:
    judged = outcome(tensor([[0.5, 0.2]]), tensor([[1.0, 0.0]]))
    assert Contrastive()(judged).item() == pytest.approx(3.0)
