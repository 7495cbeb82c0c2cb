import numpy as np
import pytest
from scipy import stats

from srch3.metrics import significance
from srch3.metrics.significance import RESAMPLES, Comparison, compare, holm

Values = dict[str, dict[str, float]]


def metric(values: list[float]) -> Values:
    return {"ndcg@10": {f"q{number}": value for number, value in enumerate(values)}}


def compared(first: list[float], second: list[float], seed: int = 0) -> Comparison:
    return compare(metric(first), metric(second), seed)["ndcg@10"]


def random_pair(count: int, gain: float, seed: int) -> tuple[list[float], list[float]]:
    draw = np.random.default_rng(seed)
    second = draw.random(count)
    return (second + draw.normal(gain, 0.2, count)).tolist(), second.tolist()


def test_few_queries_are_tested_with_every_swap() -> None:
    found = compared([1.0, 0.5, 0.75, 0.25], [0.0, 0.25, 0.25, 0.25])
    assert found.difference == pytest.approx(1.75 / 4)
    assert found.p == 2 / 8  # of the eight ways to swap the three that differ, only none and all are as extreme
    assert (found.wins, found.losses) == (3, 0)


@pytest.mark.parametrize("count", [2, 9, 13, 14, 200])
def test_the_test_agrees_with_scipys(count: int) -> None:
    first, second = random_pair(count, 0.03, seed=count)
    differences = np.subtract(first, second)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=10_000, rng=np.random.default_rng(1)
    ).pvalue
    spread = 0.0 if count <= 13 else 0.04
    assert compared(first, second).p == pytest.approx(expected, abs=1e-9 + spread)


@pytest.mark.parametrize("seed", range(3))
def test_test_and_interval_are_near_those_of_the_t_test(seed: int) -> None:
    first, second = random_pair(400, 0.02, seed)
    found, expected = compared(first, second), stats.ttest_rel(first, second)
    assert found.p == pytest.approx(expected.pvalue, abs=0.02)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.003)
    assert found.low < found.difference < found.high


def test_a_certain_gain_is_as_certain_as_the_resamples_allow_and_never_impossible() -> None:
    found = compared([1.0] * 100, [0.0] * 100)
    assert found == (1.0, 1.0, 1.0, 1 / (RESAMPLES + 1), 100, 0)


def test_equal_systems_do_not_differ() -> None:
    assert compared([0.5, 0.25], [0.5, 0.25]) == (0.0, 0.0, 0.0, 1.0, 0, 0)
    assert compared([1.0, 0.0] * 20, [0.0, 1.0] * 20).p == 1.0


def test_comparing_the_other_way_round_turns_the_signs() -> None:
    first, second = random_pair(50, 0.05, seed=0)
    there, back = compared(first, second), compared(second, first)
    assert back.difference == pytest.approx(-there.difference)
    assert back.p == there.p
    assert (back.wins, back.losses) == (there.losses, there.wins)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_under_the_null_hypothesis_p_is_rarely_small() -> None:
    ps = [compared(*random_pair(20, 0.0, seed), seed).p for seed in range(60)]
    assert 0.35 < np.mean(ps) < 0.65
    assert sum(p <= 0.05 for p in ps) <= 8


def test_comparisons_can_be_repeated() -> None:
    first, second = random_pair(60, 0.02, seed=3)
    assert compared(first, second) == compared(first, second)
    assert compared(first, second).low != compared(first, second, seed=1).low


def test_resamples_that_do_not_fit_into_memory_at_once_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = random_pair(60, 0.03, seed=4)
    whole = compared(first, second)
    monkeypatch.setattr(significance, "_CHUNK", 60 * 3000)
    pieces = compared(first, second)
    assert pieces == pytest.approx(whole, abs=0.02)
    assert round(pieces.p * (RESAMPLES + 1), 6) % 1 == 0


def test_other_queries_or_metrics_and_none_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="the same metrics of the same queries"):
        compare(metric([0.5]), metric([0.5, 0.5]))
    with pytest.raises(ValueError, match="the same metrics"):
        compare(metric([0.5]), {"mrr@10": {"q0": 0.5}})
    with pytest.raises(ValueError, match="at least one query"):
        compare(metric([]), metric([]))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []
