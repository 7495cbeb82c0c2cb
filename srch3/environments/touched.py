"""What a training step is about to touch: the documents that its rewards depend on, over all ranks."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.types import Hits, Pending, Searcher

_BAND = 0.25
"""How far from the positive's score a hit still contests its rank, in standard deviations of the hits' scores."""


class Touched(NamedTuple):
    """The documents that matter for the rewards of a training step, on the CPU.

    A rollout's stake is what its positive loses in DCG by one place: ``1 / log2(r + 1) − 1 / log2(r + 2)`` at rank
    ``r``. It is high where a single competitor that is misplaced changes the reward.

    Attributes:
        positives: Rows of the documents that queries are judged against, ascending.
        stakes: For each positive, the sum of the stakes of the rollouts whose best positive it is.
        hits: Rows of the documents that searches find before anything is refreshed, ascending.
        weights: For each hit, how much it can matter: the sum of its DCG discounts ``1 / log2(rank + 1)`` over all
            searches.
        contested: For each hit, the sum over all searches of the rollout's stake times ``exp(−(d / h)²)``, ``d`` being
            the distance of its score from the positive's, and ``h`` a quarter of the standard deviation of the hits'
            scores: how likely it is to change places with the positive, and what that would change.
    """

    positives: Int64[Tensor, "positives"]
    stakes: Float[Tensor, "positives"]
    hits: Int64[Tensor, "found"]
    weights: Float[Tensor, "found"]
    contested: Float[Tensor, "found"]


def nothing_touched() -> Touched:
    """What a step without searches touches."""
    none = torch.empty(0, dtype=torch.int64)
    return Touched(none, none.double(), none, none.double(), none.double())


def touched(pending: Pending, searcher: Searcher) -> Touched:
    """What one process is about to touch.

    Args:
        pending: The searches that will be rewarded.
        searcher: The vectors as they are.
    """
    if not len(pending.embeddings):
        return nothing_touched()
    hits = searcher.search(pending.embeddings, pending.hits)
    best, scores = _best_positives(pending, searcher)
    stakes, contested = _contest(hits, best, scores)
    ranks = torch.arange(1, hits.rows.shape[1] + 1, dtype=torch.float64)
    weights = (1 / torch.log2(ranks + 1)).expand(hits.rows.shape)
    positives = torch.tensor(sorted({row for judged in pending.relevant for row in judged}), dtype=torch.int64)
    found, places = hits.rows.cpu().reshape(-1).unique(return_inverse=True)
    known = torch.searchsorted(positives, best)
    return Touched(
        positives,
        _sum_at(known, stakes, len(positives)),
        found,
        _sum_at(places, weights.reshape(-1), len(found)),
        _sum_at(places, contested.reshape(-1), len(found)),
    )


def gather(mine: Touched) -> Touched:
    """What all ranks are about to touch, the same on every rank, so that their indexes stay the same."""
    if not (dist.is_available() and dist.is_initialized()):
        return mine
    everyone: list[Touched] = [mine] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return union(everyone)


def union(parts: list[Touched]) -> Touched:
    """What several processes touch together; their order decides nothing but rounding."""
    positives, stakes, hits, weights, contested = (torch.cat(columns) for columns in zip(*parts, strict=True))
    judged, owners = positives.unique(return_inverse=True)
    found, places = hits.unique(return_inverse=True)
    return Touched(
        judged,
        _sum_at(owners, stakes, len(judged)),
        found,
        _sum_at(places, weights, len(found)),
        _sum_at(places, contested, len(found)),
    )


def _best_positives(pending: Pending, searcher: Searcher) -> tuple[Int64[Tensor, "rollouts"], Tensor]:
    """The nearest positive of each rollout, and its score."""
    rows = [torch.tensor(sorted(judged), dtype=torch.int64) for judged in pending.relevant]
    vectors = searcher.vectors_of(torch.cat(rows)).cpu().split([len(some) for some in rows])
    embeddings, groups = pending.embeddings.detach().float().cpu(), pending.groups.cpu()
    best, scores = torch.zeros(len(groups), dtype=torch.int64), torch.zeros(len(groups), dtype=torch.float64)
    for group, (judged, of) in enumerate(zip(rows, vectors, strict=True)):
        members = (groups == group).nonzero()[:, 0]
        highest = (embeddings[members, None] * of).sum(dim=2).max(dim=1)
        best[members], scores[members] = judged[highest.indices], highest.values.double()
    return best, scores


def _contest(
    hits: Hits, best: Int64[Tensor, "rollouts"], positive: Float[Tensor, "rollouts"]
) -> tuple[Tensor, Float[Tensor, "rollouts hits"]]:
    """Stakes, and how much each hit contests them; the positive itself is no rival, however its score is rounded."""
    scores = hits.scores.cpu().double()
    ranks = 1 + ((scores > positive[:, None]) & (hits.rows.cpu() != best[:, None])).sum(dim=1)
    stakes = 1 / torch.log2(ranks + 1) - 1 / torch.log2(ranks + 2)
    width = (_BAND * scores.std(dim=1, correction=0, keepdim=True)).clamp(min=1e-6)
    return stakes, stakes[:, None] * torch.exp(-(((scores - positive[:, None]) / width) ** 2))


def _sum_at(places: Int64[Tensor, "any"], values: Float[Tensor, "any"], count: int) -> Float[Tensor, "count"]:
    return torch.zeros(count, dtype=torch.float64).index_add(0, places, values.double())
