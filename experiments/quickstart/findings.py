"""What the figures say, in sentences that claim no more than they allow."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Scores = Mapping[str, Sequence[float]]
"""nDCG@10 of each test query, by system; all in the same order of queries."""


class Difference(NamedTuple):
    """A paired comparison of two systems over the same queries.

    Attributes:
        mean: First minus second.
        error: Standard error of that mean over queries.
    """

    mean: float
    error: float

    @property
    def clear(self) -> bool:
        """Whether it is more than two standard errors away from zero."""
        return abs(self.mean) > 2 * self.error

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.error:.3f}"


class Finding(NamedTuple):
    """A comparison with what it tells.

    Attributes:
        first: Name of a system.
        second: Name of the system that it is compared with.
        difference: nDCG@10 of the first minus that of the second.
        sentence: What that tells.
    """

    first: str
    second: str
    difference: Difference
    sentence: str


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Mean of the differences and its standard error, √(variance / number of queries)."""
    differences = [left - right for left, right in zip(first, second, strict=True)]
    spread = statistics.stdev(differences) if len(differences) > 1 else math.inf
    return Difference(statistics.fmean(differences), spread / math.sqrt(len(differences)))


def findings(scores: Scores, seconds: Mapping[str, float]) -> list[Finding]:
    """All comparisons, the claims first and then one for each control.

    Args:
        scores: Of all systems.
        seconds: What each stage took.
    """
    untrained = _better(scores, "untrained.thinking", "untrained.direct")
    tellers: list[tuple[str, str, Callable[[Difference], str]]] = [
        ("sft.thinking", untrained, _stage_one(statistics.fmean(scores[untrained]))),
        ("sft.thinking", "bm25", _against("Stage 1, thinking,", "BM25")),
        ("rl.thinking", "bm25", _against("Stage 2, thinking,", "BM25")),
        ("rl.thinking", "sft.thinking", _against("Stage 2, thinking,", "stage 1, thinking")),
        ("sft.thinking", "sft.direct", _against("Stage 1, thinking,", "stage 1, direct")),
        ("rl.thinking", "rl.direct", _against("Stage 2, thinking,", "stage 2, direct")),
        *((f"{stage}.empty", f"{stage}.thinking", _empty) for stage in ("sft", "rl")),
        *((f"{stage}.shuffled", f"{stage}.thinking", _shuffled) for stage in ("sft", "rl")),
        ("control.direct", "rl.thinking", _direct(seconds)),
    ]
    return [_finding(scores, *teller) for teller in tellers]


def _finding(scores: Scores, first: str, second: str, tell: Callable[[Difference], str]) -> Finding:
    difference = paired(scores[first], scores[second])
    return Finding(first, second, difference, tell(difference))


def _better(scores: Scores, left: str, right: str) -> str:
    return left if statistics.fmean(scores[left]) > statistics.fmean(scores[right]) else right


def _against(first: str, second: str) -> Callable[[Difference], str]:
    def tell(difference: Difference) -> str:
        if not difference.clear:
            return f"{first} against {second}: {difference}, no difference that these queries can show."
        return f"{first} is {'ahead of' if difference.mean > 0 else 'behind'} {second}: {difference}."

    return tell


def _stage_one(untrained: float) -> Callable[[Difference], str]:
    compare = _against("Stage 1, thinking,", "the untrained base in its better mode")

    def tell(difference: Difference) -> str:
        if not difference.clear or untrained <= 0:
            return compare(difference)
        return f"{compare(difference)[:-1]}, which is {1 + difference.mean / untrained:.1f} times as much."

    return tell


def _empty(difference: Difference) -> str:
    if not difference.clear:
        return f"embedding before the thought instead of after it changes nothing that shows ({difference})."
    if difference.mean > 0:
        return f"embedding before the thought instead of after it finds more ({difference}): the thought does harm."
    return f"embedding before the thought instead of after it finds less ({difference}): it counts on having thought."


def _shuffled(difference: Difference) -> str:
    if difference.clear and difference.mean < 0:
        return f"after another query's thought it finds less ({difference}): the embedding heeds what a thought says."
    return f"after another query's thought it finds no less ({difference}): no sign that it heeds what a thought says."


def _direct(seconds: Mapping[str, float]) -> Callable[[Difference], str]:
    def tell(difference: Difference) -> str:
        start = "stage 1 trained on with the same new queries but without thinking"
        times = f"for {seconds['direct']:.0f} s (stage 2: {seconds['rl']:.0f} s)"
        if not difference.clear:
            return f"{start}, {times}, does as well as stage 2 ({difference}): no sign that it is thinking that pays."
        if difference.mean > 0:
            return f"{start}, {times}, is ahead of stage 2 ({difference}): the time was better spent that way."
        return f"{start}, {times}, is behind stage 2 ({difference}): the queries and the time alone do not get there."

    return tell
