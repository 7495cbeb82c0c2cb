"""Budgets: how many documents may be encoded again after an optimizer step."""

import math
import operator
from abc import ABC, abstractmethod
from typing import ClassVar

from srch3.errors import CheckpointError, ConfigError

ARGUMENTS = "environment.init_args.budget.init_args"
"""Where the arguments of a budget stand in YAML."""


class BaseBudget(ABC):
    """Says how many documents may be encoded again in each training step.

    On several ranks, each has a budget of its own and tells it the same numbers, so that all allow the same.
    """

    needs_audits: ClassVar[bool] = False
    """Whether it learns from audits alone, so that a run without any cannot use it."""

    learned: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes, numbers, that change during a run."""

    def documents(self, count: int) -> int:
        """Documents for the next refresh, at least 0.

        Args:
            count: Documents in the corpus, the most that are allowed.

        Raises:
            ConfigError: The number is no integer.
        """
        wanted = self.wanted(count)
        try:
            return max(0, min(count, operator.index(wanted)))
        except TypeError as error:
            raise ConfigError(
                f"environment.init_args.budget: expected an integer from {type(self).__name__}.wanted; got {wanted!r}"
            ) from error

    @abstractmethod
    def wanted(self, count: int) -> int:
        """Documents for the next refresh of a corpus of ``count``; the caller clamps it to 0 to ``count``."""

    def spent(self, documents: int, refresh_seconds: float, step_seconds: float) -> None:
        """Takes note of a refresh.

        Args:
            documents: How many were encoded.
            refresh_seconds: Time that choosing and encoding them took.
            step_seconds: Time of the whole training step, the refresh included, without validation.
        """
        return

    def audited(self, figures: dict[str, float]) -> None:
        """Takes note of an audit.

        Args:
            figures: What it measured, such as ``reward_mae``.
        """
        return

    def state_dict(self) -> dict[str, float]:
        """What was learned."""
        return {name: getattr(self, name) for name in self.learned}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restores what :meth:`state_dict` gave.

        Raises:
            CheckpointError: The state comes from a budget of another kind.
        """
        if set(state) != set(self.learned):
            raise CheckpointError(
                f"environment.init_args.budget: expected a saved state of {type(self).__name__} with "
                f"{sorted(self.learned)}; got {sorted(state)}; resume with the budget of the saved run"
            )
        for name, value in state.items():
            setattr(self, name, value)


class DocumentBudget(BaseBudget):
    """A fixed number of documents per optimizer step.

    Args:
        documents: The number.

    Raises:
        ConfigError: It is below one.
    """

    def __init__(self, documents: int) -> None:
        if documents < 1:
            raise ConfigError(
                f"{ARGUMENTS}.documents: expected at least 1; got {documents}; to encode nothing again, set "
                "environment.init_args.refresh to NoRefresh"
            )
        self.number = documents

    def wanted(self, count: int) -> int:
        """The number."""
        return self.number


class ShareBudget(BaseBudget):
    """A share of the corpus per optimizer step, rounded, at least one document.

    Args:
        share: Above 0, up to 1.

    Raises:
        ConfigError: The share is out of bounds.
    """

    def __init__(self, share: float = 0.05) -> None:
        _check_share("share", share)
        self.share = share

    def wanted(self, count: int) -> int:
        """The share."""
        return _of(count, self.share)


class TimeBudget(BaseBudget):
    """A share of the time of each training step.

    With ``s`` seconds per document and ``t`` seconds for all else in a step, both averaged over about the last ten
    steps, a refresh of ``share / (1 - share) * t / s`` documents takes ``share`` of the whole. It begins with
    32 documents, at most doubles from one refresh to the next, and never falls below one, so that it goes on
    measuring.

    It depends on the clock: two runs with the same seed, or a resumed run and the one that it resumes, may refresh
    other documents, and differ from there on.

    Args:
        share: Above 0, below 1.

    Raises:
        ConfigError: The share is out of bounds.
    """

    FIRST: ClassVar[int] = 32
    GROWTH: ClassVar[int] = 2
    MEMORY: ClassVar[float] = 0.9
    learned = ("encoded", "encoding", "steps", "training", "last")

    def __init__(self, share: float = 0.2) -> None:
        if not 0 < share < 1:
            raise ConfigError(f"{ARGUMENTS}.share: expected above 0, below 1; got {share}; it is a share of the time")
        self.share = share
        self.encoded = self.encoding = self.steps = self.training = self.last = 0.0

    def wanted(self, count: int) -> int:
        """What fits into the time, by what is known of it."""
        if not (self.encoded and self.steps):
            return self.FIRST
        most = self.GROWTH * max(1, int(self.last))
        affordable = self.share / (1 - self.share) * self.training / self.steps
        per_document = self.encoding / self.encoded
        return most if affordable >= most * per_document else max(1, int(affordable / per_document))

    def spent(self, documents: int, refresh_seconds: float, step_seconds: float) -> None:
        """Learns from a step; one without a refresh, or that took no measurable time, teaches nothing."""
        others = step_seconds - refresh_seconds
        if documents < 1 or not (0 < refresh_seconds < math.inf and 0 < others < math.inf):
            return
        self.encoded = self.MEMORY * self.encoded + documents
        self.encoding = self.MEMORY * self.encoding + refresh_seconds
        self.steps = self.MEMORY * self.steps + 1
        self.training = self.MEMORY * self.training + others
        self.last = float(documents)


class ErrorBudget(BaseBudget):
    """What it takes to keep the rewards' error at a target: a share of the corpus that follows the audits.

    It learns from audits alone: where ``environment.init_args.audit_every_n_steps`` is 0, its default, it is refused.

    After each audit the share is multiplied by ``sqrt(reward_mae / target)``, at least by 1/2 and at most by 2, and
    kept within bounds. Where the error is inversely proportional to the budget, that halves the distance in log space
    with every audit. An error that is not known leaves the share as it is.

    Args:
        target: Mean absolute error of the rewards to keep, above 0, in units of the reward.
        start: Share of the corpus until the first audit.
        least: Lower bound of the share, above 0.
        most: Upper bound of the share, up to 1.

    Raises:
        ConfigError: The target is not above 0, or the shares are not in ascending order.
    """

    STEP: ClassVar[float] = 2.0
    needs_audits = True
    learned = ("share",)

    def __init__(self, target: float = 0.01, start: float = 0.05, least: float = 0.005, most: float = 0.5) -> None:
        if not 0 < target < math.inf:
            raise ConfigError(f"{ARGUMENTS}.target: expected a number above 0; got {target}; it is an error of rewards")
        for name, share in (("least", least), ("most", most)):
            _check_share(name, share)
        if not least <= start <= most:
            raise ConfigError(f"{ARGUMENTS}.start: expected least ({least}) to most ({most}); got {start}")
        self.target, self.least, self.most = target, least, most
        self.share = start

    def wanted(self, count: int) -> int:
        """The present share, at least one document."""
        return _of(count, min(self.most, max(self.least, self.share)))

    def audited(self, figures: dict[str, float]) -> None:
        """Moves the share towards the target."""
        error = figures.get("reward_mae", math.nan)
        if not 0 <= error < math.inf:
            return
        factor = min(self.STEP, max(1 / self.STEP, math.sqrt(error / self.target)))
        self.share = min(self.most, max(self.least, self.share * factor))


def _of(count: int, share: float) -> int:
    return max(1, round(share * count))


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise ConfigError(f"{ARGUMENTS}.{name}: expected above 0, up to 1; got {share}; it is a share of the corpus")
