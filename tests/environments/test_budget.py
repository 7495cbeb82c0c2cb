import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from srch3.environments import BaseBudget, DocumentBudget, ErrorBudget, ShareBudget, TimeBudget
from srch3.errors import CheckpointError, ConfigError


def test_a_number_is_a_number_up_to_the_corpus() -> None:
    assert [DocumentBudget(30).documents(count) for count in (0, 10, 4400)] == [0, 10, 30]


def test_a_share_is_rounded_and_at_least_one_document() -> None:
    assert [ShareBudget().documents(count) for count in (0, 1, 5, 100, 4400)] == [0, 1, 1, 5, 220]
    assert ShareBudget(1.0).documents(7) == 7


class Wild(BaseBudget):
    def __init__(self, number: int) -> None:
        self.number = number

    def wanted(self, count: int) -> int:
        return self.number


def test_what_is_wanted_is_clamped_to_the_corpus() -> None:
    assert [Wild(number).documents(5) for number in (-3, 2, 9)] == [0, 2, 5]


@pytest.mark.parametrize("make", [lambda: DocumentBudget(3), ShareBudget, lambda: Wild(2)])
def test_fixed_budgets_learn_nothing(make: Callable[[], BaseBudget]) -> None:
    budget = make()
    before = budget.documents(100)
    budget.spent(5, 1.0, 3.0)
    budget.audited({"reward_mae": 1.0})
    assert (budget.documents(100), budget.state_dict(), budget.needs_audits) == (before, {}, False)


def run(budget: TimeBudget, steps: int, count: int, refresh: Callable[[int], float], other: float) -> list[float]:
    """The share of the time that each refresh took."""
    shares = []
    for _ in range(steps):
        documents = budget.documents(count)
        seconds = refresh(documents)
        budget.spent(documents, seconds, seconds + other)
        shares.append(seconds / (seconds + other))
    return shares


def test_time_is_shared_as_asked_by_hand() -> None:
    budget = TimeBudget(share=0.2)
    assert budget.documents(1000) == 32
    budget.spent(32, refresh_seconds=1.6, step_seconds=9.6)
    assert budget.documents(1000) == 40
    budget.spent(40, refresh_seconds=1.8, step_seconds=13.8)
    affordable = 0.25 * (0.9 * 8 + 12) / (0.9 + 1)
    assert budget.documents(1000) == int(affordable / ((0.9 * 1.6 + 1.8) / (0.9 * 32 + 40)))


@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("overhead", [0.0, 0.01])
def test_the_share_of_the_time_settles(share: float, overhead: float) -> None:
    shares = run(TimeBudget(share), 60, 10**6, lambda documents: overhead + 0.001 * documents, other=2.0)
    assert max(shares) <= share + 1e-9
    assert shares[-1] == pytest.approx(share, rel=0.02)


def test_the_share_of_the_time_follows_a_step_that_becomes_longer() -> None:
    budget = TimeBudget()
    run(budget, 40, 10**6, lambda documents: 0.001 * documents, other=1.0)
    shares = run(budget, 60, 10**6, lambda documents: 0.004 * documents, other=3.0)
    assert shares[-1] == pytest.approx(0.2, rel=0.02)


def test_the_time_budget_at_most_doubles_and_never_stops_measuring() -> None:
    budget = TimeBudget()
    budget.spent(32, 1e-9, 100.0)
    assert budget.documents(10**6) == 64
    budget.spent(64, 1e6, 1e6 + 1)
    assert budget.documents(10**6) == 1
    assert budget.documents(0) == 0
    budget.spent(1, 0.1, 100.0)
    assert budget.documents(10**6) in (1, 2)


@pytest.mark.parametrize(
    ("documents", "refresh", "step"),
    [(0, 0.1, 1.0), (5, 0.0, 1.0), (5, math.nan, 1.0), (5, 1.0, 1.0), (5, 1.0, math.nan), (5, 1.0, math.inf)],
)
def test_steps_that_measured_nothing_teach_nothing(documents: int, refresh: float, step: float) -> None:
    budget = TimeBudget()
    budget.spent(50, 1.0, 11.0)
    before = budget.state_dict()
    budget.spent(documents, refresh, step)
    assert budget.state_dict() == before


def audit(budget: ErrorBudget, audits: int, error: Callable[[float], float], count: int = 100_000) -> list[float]:
    """The shares that the budget allowed, each before an audit of the error that it leads to."""
    shares = []
    for _ in range(audits):
        shares.append(budget.documents(count) / count)
        budget.audited({"reward_mae": error(shares[-1]), "reward_bias": 0.3})
    return shares


@pytest.mark.parametrize("start", [0.006, 0.05, 0.45])
@pytest.mark.parametrize("elasticity", [0.5, 1.0, 1.5])
def test_the_error_budget_converges_without_overshooting(start: float, elasticity: float) -> None:
    def error(share: float) -> float:
        return 0.01 * (0.08 / share) ** elasticity

    shares = audit(ErrorBudget(target=0.01, start=start), 25, error)
    assert shares[-1] == pytest.approx(0.08, rel=0.01)
    distances = [abs(math.log(share / 0.08)) for share in shares]
    assert all(later <= before + 1e-3 for before, later in pairwise(distances))
    assert all((share - 0.08) * (start - 0.08) > -1e-4 for share in shares)


def test_the_first_audits_by_hand() -> None:
    shares = audit(ErrorBudget(target=0.01, start=0.05), 3, lambda share: 0.001 / share)
    assert shares == pytest.approx([0.05, 0.05 * math.sqrt(2), 0.05 * math.sqrt(2) * 2**0.25], abs=1e-5)


def test_an_error_that_lags_behind_the_budget_does_not_make_it_oscillate() -> None:
    history = [0.05] * 2

    def error(share: float) -> float:
        history.append(share)
        return 0.01 * 0.08 / (sum(history[-3:]) / 3)

    shares = audit(ErrorBudget(target=0.01), 40, error)
    assert shares[-1] == pytest.approx(0.08, rel=0.01)
    assert max(shares) < 1.25 * 0.08


@pytest.mark.parametrize("figures", [{}, {"reward_mae": math.nan}, {"reward_mae": math.inf}, {"reward_mae": -1.0}])
def test_an_unknown_error_changes_nothing(figures: dict[str, float]) -> None:
    budget = ErrorBudget()
    for _ in range(5):
        budget.audited(figures)
    assert budget.documents(1000) == 50


@pytest.mark.parametrize(("error", "expected"), [(0.0, 5), (1e9, 500)])
def test_the_error_budget_stays_within_its_bounds_and_leaves_them_at_once(error: float, expected: int) -> None:
    budget = ErrorBudget()
    shares = audit(budget, 30, lambda share: error, count=1000)
    assert shares[:2] == [0.05, 0.025 if error == 0 else 0.1]
    assert budget.documents(1000) == expected
    budget.audited({"reward_mae": 1.0 if error == 0 else 0.0})
    assert budget.documents(1000) == (10 if error == 0 else 250)


def test_only_the_error_budget_needs_audits() -> None:
    assert [budget.needs_audits for budget in (ErrorBudget, TimeBudget, ShareBudget)] == [True, False, False]


@pytest.mark.parametrize("make", [TimeBudget, ErrorBudget, ShareBudget])
def test_a_restored_budget_goes_on_as_before(make: Callable[[], BaseBudget]) -> None:
    whole, resumed = make(), make()
    for step in range(3):
        whole.spent(40, 1.0 + step, 20.0)
        whole.audited({"reward_mae": 0.02})
    resumed.load_state_dict(whole.state_dict())
    for budget in (whole, resumed):
        budget.spent(60, 2.0, 15.0)
        budget.audited({"reward_mae": 0.004})
    assert whole.documents(10**5) == resumed.documents(10**5)
    assert whole.state_dict() == resumed.state_dict()
    assert all(type(value) is float for value in whole.state_dict().values())


def test_a_restored_share_is_kept_within_the_present_bounds() -> None:
    budget = ErrorBudget(most=0.1)
    budget.load_state_dict({"share": 0.4})
    assert budget.documents(1000) == 100


def test_the_state_of_another_kind_of_budget_is_refused() -> None:
    with pytest.raises(
        CheckpointError, match=r"budget: expected a saved state of ShareBudget with \[\]; got \['share'\]"
    ):
        ShareBudget().load_state_dict(ErrorBudget().state_dict())


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (DocumentBudget, {"documents": 0}, "documents: expected at least 1; got 0"),
        (ShareBudget, {"share": 0.0}, "share: expected above 0, up to 1; got 0.0"),
        (ShareBudget, {"share": math.nan}, "share: expected above 0, up to 1; got nan"),
        (TimeBudget, {"share": 1.0}, "share: expected above 0, below 1; got 1.0"),
        (ErrorBudget, {"target": 0.0}, "target: expected a number above 0; got 0.0"),
        (ErrorBudget, {"target": math.nan}, "target: expected a number above 0; got nan"),
        (ErrorBudget, {"least": 0.0}, "least: expected above 0, up to 1; got 0.0"),
        (ErrorBudget, {"most": 1.1}, "most: expected above 0, up to 1; got 1.1"),
        (ErrorBudget, {"start": 0.6}, r"start: expected least \(0.005\) to most \(0.5\); got 0.6"),
    ],
)
def test_impossible_settings_are_refused(make: type[BaseBudget], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"environment.init_args.budget.init_args.{message}"):
        make(**arguments)


def test_a_budget_of_ones_own_that_is_no_number_of_documents_is_named() -> None:
    class Share(BaseBudget):
        def wanted(self, count: int) -> int:
            return count * 0.1  # type: ignore[return-value]

    with pytest.raises(ConfigError, match=r"init_args.budget: expected an integer from Share.wanted; got 5.0"):
        Share().documents(50)


def test_a_budget_of_ones_own_may_count_with_numpy() -> None:
    class Few(BaseBudget):
        def wanted(self, count: int) -> int:
            return np.int64(7)

    assert Few().documents(50) == 7
    assert Few().documents(5) == 5
