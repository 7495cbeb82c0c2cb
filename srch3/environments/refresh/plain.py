"""Refresh policies that do not look at what training touched: none, random, oldest, full."""

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from srch3.environments.refresh.base import BaseRefresh, View, at_least, oldest_first


class NoRefresh(BaseRefresh):
    """Never encodes anything again, whatever the budget, so that no age is bounded; for measuring what that costs."""

    looks = False

    def __init__(self) -> None:
        super().__init__(sweep=0)

    def quota(self, budget: int, waiting: int) -> int:
        """None."""
        return 0

    def rank(self, view: View, room: int) -> Int64[Tensor, "ranked"]:
        """No rows."""
        return torch.empty(0, dtype=torch.int64)


class FullRefresh(BaseRefresh):
    """Encodes all documents after every step, whatever the budget: exact; practical for a few thousand documents."""

    looks = False

    def __init__(self) -> None:
        super().__init__(sweep=1)

    def quota(self, budget: int, waiting: int) -> int:
        """All of them."""
        return waiting

    def rank(self, view: View, room: int) -> Int64[Tensor, "ranked"]:
        """All rows."""
        return torch.arange(len(view.stamps))


class OldestRefresh(BaseRefresh):
    """Encodes the documents in turn, those encoded longest ago first, so that all ages are alike.

    Take ``NoCorrection`` with it; ``RidgeCorrection`` says why a map learned from the oldest alone goes astray.
    """

    looks = False

    def __init__(self) -> None:
        super().__init__(sweep=1)

    def rank(self, view: View, room: int) -> Int64[Tensor, "ranked"]:
        """The oldest first, ties scattered."""
        return oldest_first(view.stamps, torch.arange(len(view.stamps))).argsort()


class RandomRefresh(BaseRefresh):
    """Encodes documents drawn at random, others after each step; a base line for policies that look closer.

    Args:
        seed: Together with the optimizer step it decides the draw, so that a resumed run draws the same.
        sweep: Share of every budget for the oldest documents, rounded up; with 0 no age is bounded.

    Raises:
        ConfigError: The seed is negative, or the share is not between 0 and 1.
    """

    looks = False

    def __init__(self, seed: int = 0, sweep: float = 0.1) -> None:
        super().__init__(sweep)
        at_least("seed", seed, 0)
        self.seed = seed

    def rank(self, view: View, room: int) -> Int64[Tensor, "ranked"]:
        """All rows in random order."""
        order = np.random.default_rng([self.seed, view.step]).permutation(len(view.stamps))
        return torch.from_numpy(order)
