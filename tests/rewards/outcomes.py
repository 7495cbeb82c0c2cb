"""Outcomes as small as a test needs."""

import torch
from torch import Tensor

from srch3.types import Hits, Outcome


def outcome(scores: Tensor, grades: Tensor, emitted: list[bool] | None = None, **others: object) -> Outcome:
    """Searches with these hits, by four-token completions of one query; what is left out is harmless."""
    count, hits = scores.shape
    best = scores.where(grades > 0, -1.0).amax(dim=1) if hits else torch.full((count,), -1.0)
    filled = Outcome(
        Hits(torch.arange(hits).expand(count, hits), scores),
        grades,
        positive_scores=best,
        embeddings=torch.eye(count),
        emitted=torch.ones(count, dtype=torch.bool) if emitted is None else torch.tensor(emitted),
        truncated=torch.zeros(count, dtype=torch.bool),
        lengths=torch.full((count,), 4),
        groups=torch.zeros(count, dtype=torch.long),
        queries=["query"] * count,
        thoughts=["thought"] * count,
    )
    return filled._replace(**others)


def random_outcome(rollouts: int = 24, hits: int = 9, groups: int = 4, seed: int = 0) -> Outcome:
    """Searches in no order of groups, some without the embed token, with up to three relevant hits and often none."""
    draw = torch.Generator().manual_seed(seed)
    scores = (torch.rand(rollouts, hits, generator=draw) * 1.6 - 0.6).sort(dim=1, descending=True).values
    grades = (torch.rand(rollouts, hits, generator=draw) > 0.8) * torch.randint(1, 3, (rollouts, hits), generator=draw)
    found = scores.where(grades > 0, -1.0).amax(dim=1)
    embeddings = torch.nn.functional.normalize(torch.randn(rollouts, 5, generator=draw))
    return outcome(
        scores,
        grades.float(),
        torch.rand(rollouts, generator=draw).gt(0.2).tolist(),
        positive_scores=torch.where(found > -1, found, scores[:, -1] - 0.1),
        embeddings=embeddings,
        groups=torch.randint(groups, (rollouts,), generator=draw) * 7 - 3,
        truncated=torch.rand(rollouts, generator=draw).gt(0.7),
        lengths=torch.randint(1, 20, (rollouts,), generator=draw),
        thoughts=["thought" if number % 5 else "  " for number in range(rollouts)],
    )


def reordered(judged: Outcome, order: Tensor) -> Outcome:
    """The same completions in another order."""
    rows = order.tolist()
    hits = Hits(judged.hits.rows[order], judged.hits.scores[order])
    rest = [
        field[order] if isinstance(field, Tensor) else [field[row] for row in rows]  # type: ignore[misc]
        for field in judged[1:]
    ]
    return Outcome(hits, *rest)  # type: ignore[arg-type]
