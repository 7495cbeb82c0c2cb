"""What training steps touched: the documents whose scores their rewards depend on, over all ranks."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.types import Observation


class Touched(NamedTuple):
    """The documents that matter for the rewards of some training steps, on the CPU.

    Attributes:
        positives: Rows of the documents that queries were judged against, ascending.
        hits: Rows of the documents that searches found, ascending.
        weights: For each hit, how much it can matter: the sum of its DCG discounts 1 / log2(rank + 1) over all
            searches.
    """

    positives: Int64[Tensor, "positives"]
    hits: Int64[Tensor, "found"]
    weights: Float[Tensor, "found"]


def touched(observation: Observation) -> Touched:
    """What one training step touched."""
    rows = observation.hits.rows.cpu()
    ranks = torch.arange(1, rows.shape[1] + 1, dtype=torch.float64)
    weights = (1 / torch.log2(ranks + 1)).expand(rows.shape)
    return _summed(observation.positives.cpu(), rows.reshape(-1), weights.reshape(-1))


def union(parts: Iterable[Touched]) -> Touched:
    """What several steps touched together; the order of the steps decides nothing but rounding."""
    parts = list(parts) or [Touched(torch.empty(0).long(), torch.empty(0).long(), torch.empty(0).double())]
    return _summed(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def gather(mine: Touched) -> Touched:
    """What all ranks touched, the same on every rank, so that their indexes stay the same."""
    if not (dist.is_available() and dist.is_initialized()):
        return mine
    everyone: list[Touched] = [mine] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return union(everyone)


def _summed(
    positives: Int64[Tensor, "positives"], hits: Int64[Tensor, "found"], weights: Float[Tensor, "found"]
) -> Touched:
    unique, places = hits.unique(return_inverse=True)
    return Touched(positives.unique(), unique, weights.new_zeros(len(unique)).index_add(0, places, weights))
