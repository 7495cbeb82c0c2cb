"""Refresh policies: which documents to encode again after an optimizer step."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from srch3.environments.touched import Touched
from srch3.errors import ConfigError
from srch3.indexes.base import BaseIndex


class BaseRefresh(ABC):
    """Chooses documents to encode again; a pure function of what it is given."""

    @abstractmethod
    def select(self, seen: Touched, index: BaseIndex, stamps: Int64[Tensor, "docs"]) -> Int64[Tensor, "selected"]:
        """Rows to encode with the present model, ascending and unique.

        Args:
            seen: What the training steps since the last optimizer step touched.
            index: The vectors as they are.
            stamps: The optimizer step at which each document was encoded.
        """


class NoRefresh(BaseRefresh):
    """Never encodes anything again; for measuring what that costs."""

    def select(self, seen: Touched, index: BaseIndex, stamps: Int64[Tensor, "docs"]) -> Int64[Tensor, "selected"]:
        """No rows."""
        return torch.empty(0, dtype=torch.int64)


class FullRefresh(BaseRefresh):
    """Encodes all documents after every step: exact, and practical for a few thousand documents."""

    def select(self, seen: Touched, index: BaseIndex, stamps: Int64[Tensor, "docs"]) -> Int64[Tensor, "selected"]:
        """All rows."""
        return torch.arange(len(stamps))


class NeighbourhoodRefresh(BaseRefresh):
    """Refreshes the positives together with their competitors, and the oldest documents in turn, within a budget.

    A positive that is fresher than its competitors scores too high, and so does the reward. Therefore a positive is
    chosen only together with the documents nearest to it, the stalest positive first; room that is left goes to the
    hits of all searches, by how much they can weigh in a DCG. ``oldest_share`` of the budget, and whatever the
    neighbourhood leaves, goes to the documents that were encoded longest ago, ties by row.

    With budget ``b`` and ``n`` documents, every document is younger than ``ceil(n / ceil(oldest_share * b))`` optimizer
    steps after each refresh: whenever one waits, ``ceil(oldest_share * b)`` at least as old as it cease to be.

    Args:
        share: Budget per optimizer step as a share of the corpus, rounded, at least one document.
        documents: Budget in documents, in place of ``share``.
        oldest_share: Share of the budget for the oldest documents, rounded up; with 0 no age is bounded.
        competitors: Nearest documents that are refreshed with each positive.
    """

    def __init__(
        self, share: float = 0.05, documents: int | None = None, oldest_share: float = 0.5, competitors: int = 4
    ) -> None:
        if not 0 < share <= 1:
            raise ConfigError(f"environment.init_args.refresh.init_args.share: expected above 0, up to 1; got {share}")
        if not 0 <= oldest_share <= 1:
            raise ConfigError(
                f"environment.init_args.refresh.init_args.oldest_share: expected 0 to 1; got {oldest_share}"
            )
        for name, value, least in (("documents", documents, 1), ("competitors", competitors, 0)):
            if value is not None and value < least:
                raise ConfigError(
                    f"environment.init_args.refresh.init_args.{name}: expected at least {least}; got {value}"
                )
        self.share, self.documents = share, documents
        self.oldest_share, self.competitors = oldest_share, competitors

    def budget(self, count: int) -> int:
        """Documents per optimizer step, in a corpus of ``count``."""
        return min(count, self.documents if self.documents is not None else max(1, round(self.share * count)))

    def select(self, seen: Touched, index: BaseIndex, stamps: Int64[Tensor, "docs"]) -> Int64[Tensor, "selected"]:
        """Neighbourhoods first, then the oldest, never more than the budget."""
        budget = self.budget(len(stamps))
        chosen = torch.zeros(len(stamps), dtype=torch.bool)
        room = budget - math.ceil(self.oldest_share * budget)
        self._take_neighbourhoods(chosen, room, seen, index, stamps)
        _take(chosen, seen.hits[seen.weights.argsort(descending=True, stable=True)], room)
        _take(chosen, stamps.argsort(stable=True), budget)
        return chosen.nonzero()[:, 0]

    def _take_neighbourhoods(
        self, chosen: Bool[Tensor, "docs"], room: int, seen: Touched, index: BaseIndex, stamps: Int64[Tensor, "docs"]
    ) -> None:
        stalest = seen.positives[stamps[seen.positives].argsort(stable=True)]
        if room == 0 or len(stalest) == 0:
            return
        vectors = index.vectors[stalest.to(index.vectors.device)]
        nearest = index.search(vectors, self.competitors + 1).rows.cpu()
        for positive, row in zip(stalest, nearest, strict=True):
            unit = torch.cat([positive[None], row[row != positive][: self.competitors]])
            new = unit[~chosen[unit]]
            if len(new) <= room:
                chosen[new] = True
                room -= len(new)


def _take(chosen: Bool[Tensor, "docs"], candidates: Int64[Tensor, "any"], limit: int) -> None:
    """Chooses candidates in their order until ``limit`` are chosen in all."""
    new = candidates[~chosen[candidates]]
    chosen[new[: limit - int(chosen.sum())]] = True
