"""Which search results may serve as hard negatives."""

import random
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def forbidden_hits(
    texts: Sequence[Sequence[str]], forbidden: Sequence[AbstractSet[str]]
) -> Bool[Tensor, "queries hits"]:
    """Which hits can be no negatives: those of a forbidden text, without text, or of a text that stands above already.

    White space around a text does not count.

    Args:
        texts: Texts of each query's hits, best first; as many for each query.
        forbidden: Texts that each query's negatives must not have, such as those of its relevant documents.
    """
    rows = []
    for found, banned in zip(texts, forbidden, strict=True):
        seen = {"", *(text.strip() for text in banned)}
        marks: list[bool] = []
        for text in map(str.strip, found):
            marks.append(text in seen)
            seen.add(text)
        rows.append(marks)
    return torch.tensor(rows, dtype=torch.bool)


def eligible_hits(
    scores: Float[Tensor, "queries hits"],
    forbidden: Bool[Tensor, "queries hits"],
    positives: Float[Tensor, "queries"],
    ranks: tuple[int, int],
    margin: float | None = None,
    relative: float | None = None,
) -> Bool[Tensor, "queries hits"]:
    r"""Which hits may serve as hard negatives.

    Ranks are counted from 1 over the hits that are not forbidden. With the score :math:`s^+` of the positive, a
    negative's score is at most

    .. math:: s^+ - \mathrm{margin} \quad\text{and}\quad s^+ - (1 - \mathrm{relative}) \, |s^+|

    The second is the positive-aware filter of NV-Retriever (arXiv 2407.15831, TopK-PercPos), ``relative`` times the
    positive's score, written so that it also stays below a score that is negative.

    Args:
        scores: Of the hits, best first.
        forbidden: Hits that can be no negatives.
        positives: Score of each query's positive.
        ranks: First and last rank.
        margin: How far below the positive; none for no such filter.
        relative: Largest share of the positive's score; none for no such filter.
    """
    first, last = ranks
    allowed = ~forbidden
    rank = allowed.cumsum(dim=1)
    eligible = allowed & (rank >= first) & (rank <= last)
    if margin is not None:
        eligible &= scores <= (positives - margin)[:, None]
    if relative is not None:
        eligible &= scores <= (positives - (1 - relative) * positives.abs())[:, None]
    return eligible


def choose_hits(
    eligible: Bool[Tensor, "queries hits"], count: int, draws: Sequence[random.Random] | None = None
) -> list[list[int]]:
    """Columns of the negatives of each query, best first.

    Args:
        eligible: Hits that may serve, best first.
        count: Negatives per query; fewer where fewer are eligible.
        draws: A source of randomness for each query, to draw from the eligible ones; by default the best are taken.
    """
    columns = [[column for column, fits in enumerate(row) if fits] for row in eligible.tolist()]
    if draws is None:
        return [found[:count] for found in columns]
    return [sorted(draw.sample(found, min(count, len(found)))) for found, draw in zip(columns, draws, strict=True)]
