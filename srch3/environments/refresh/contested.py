"""The refresh policy that follows the rewards: positives, and what could change places with them."""

import torch
from jaxtyping import Int64
from torch import Tensor

from srch3.environments.refresh.base import BaseRefresh, View


class ContestedRefresh(BaseRefresh):
    """Refreshes the positives of the searches that are about to be rewarded, then the hits that contest their ranks.

    A reward depends on where the positive scores, and on the few documents whose scores are near enough to change
    places with it. Positives come first, by their stakes, then hits by how much they contest, both as
    :class:`~srch3.environments.touched.Touched` defines them; then the oldest documents. Without a correction,
    positives that are fresher than the documents they compete with score too high; with one, all are where the present
    model has them, or nearly so.

    Args:
        sweep: Share of every budget for the oldest documents, rounded up; with 0 no age is bounded.

    Raises:
        ConfigError: The share is not between 0 and 1.
    """

    def __init__(self, sweep: float = 0.25) -> None:
        super().__init__(sweep)

    def rank(self, view: View, room: int) -> Int64[Tensor, "ranked"]:
        """Positives by stake, then hits by contest, ties by row."""
        seen = view.seen
        positives = seen.positives[seen.stakes.argsort(descending=True, stable=True)]
        return torch.cat([positives, seen.hits[seen.contested.argsort(descending=True, stable=True)]])
