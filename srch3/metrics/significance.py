"""Whether one system is better than another, or was lucky with its queries: paired tests."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

RESAMPLES = 10_000
_EXACT = 13
_CHUNK = 1 << 22


class Comparison(NamedTuple):
    """What sets two systems apart in one metric.

    Attributes:
        difference: Mean over the queries of the first system's value less the second's.
        low: Lower end of the 95 % interval of the difference, by bootstrapping queries.
        high: Upper end.
        p: Two-sided, by the randomisation test.
        wins: Queries that the first system answers better.
        losses: Queries that the second answers better.
    """

    difference: float
    low: float
    high: float
    p: float
    wins: int
    losses: int


def compare(
    first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]], seed: int = 0
) -> dict[str, Comparison]:
    """Compares two systems query by query.

    The randomisation test asks how often the difference would be as large if each query's two values had been swapped
    by the toss of a coin: all swaps are tried for up to 13 queries, else 10,000 at random, together with none at all,
    so that ``p`` is never 0. The interval is from the 2.5th to the 97.5th percentile of the mean difference in 10,000
    samples of the queries, drawn with replacement. Both as in Smucker, Allan and Carterette, "A comparison of
    statistical significance tests for information retrieval evaluation", CIKM 2007.

    Args:
        first: Values by metric and query.
        second: Values of the same metrics and queries.
        seed: Of swaps and samples.

    Returns:
        One comparison per metric.

    Raises:
        ValueError: The metrics or queries are not the same, or there is no query.
    """
    if first.keys() != second.keys() or any(first[name].keys() != second[name].keys() for name in first):
        raise ValueError("expected the same metrics of the same queries from both systems")
    compared = {}
    for name, values in first.items():
        differences = np.array([value - second[name][query] for query, value in values.items()])
        if not len(differences):
            raise ValueError("expected at least one query; got none")
        low, high = _interval(differences, seed)
        wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
        p = _randomisation_test(differences, seed)
        compared[name] = Comparison(float(differences.mean()), low, high, p, wins, losses)
    return compared


def holm(ps: Sequence[float]) -> list[float]:
    """Raises p values for the number of tests that were made, after Holm (1979).

    Args:
        ps: Of all tests, in any order.

    Returns:
        In the same order; rejecting what is at most .05 errs in one of the tests with a probability of at most .05.
    """
    raised, ceiling = [0.0] * len(ps), 0.0
    for place, number in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        ceiling = max(ceiling, min(1.0, ps[number] * (len(ps) - place)))
        raised[number] = ceiling
    return raised


def _randomisation_test(differences: Float[NDArray[np.float64], "queries"], seed: int) -> float:
    observed = abs(differences.sum())
    tolerance = 1e-9 * np.abs(differences).sum()
    differing = differences[differences != 0]
    extreme = total = 0
    for signs in _signs(len(differing), seed):
        extreme += int((np.abs(signs @ differing) >= observed - tolerance).sum())
        total += len(signs)
    return extreme / total


def _signs(count: int, seed: int) -> Iterator[Float[NDArray[np.float64], "swaps queries"]]:
    """Every choice of signs where there are few, else none swapped and then random ones, some at a time."""
    if count <= _EXACT:
        bits = np.arange(1 << count)[:, None] >> np.arange(count)
        yield np.where(bits & 1, -1.0, 1.0)
        return
    yield np.ones((1, count))
    draw = np.random.default_rng(seed)
    for size in _chunks(count):
        yield np.where(draw.integers(0, 2, (size, count), np.int8), -1.0, 1.0)


def _interval(differences: Float[NDArray[np.float64], "queries"], seed: int) -> tuple[float, float]:
    draw = np.random.default_rng(seed)
    count = len(differences)
    samples = [differences[draw.integers(0, count, (size, count))].mean(axis=1) for size in _chunks(count)]
    low, high = np.percentile(np.concatenate(samples), [2.5, 97.5])
    return float(low), float(high)


def _chunks(count: int) -> Iterator[int]:
    """Numbers of resamples that are computed at once, which bounds the memory."""
    size = max(1, _CHUNK // count)
    for start in range(0, RESAMPLES, size):
        yield min(size, RESAMPLES - start)
