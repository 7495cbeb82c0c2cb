"""What a refresh policy sees, and what all policies share: the budget, and a sweep that bounds every age."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from srch3.environments.touched import Touched
from srch3.errors import ConfigError
from srch3.types import Searcher

ARGUMENTS = "environment.init_args.refresh.init_args"
"""Where the arguments of a refresh policy stand in YAML."""


_GOLDEN = 2654435761
"""2³² divided by the golden ratio, rounded to an odd number: its multiples scatter evenly (Knuth, volume 3, 6.4)."""


class View(NamedTuple):
    """All that a refresh policy may look at; tensors are on the CPU.

    Attributes:
        seen: What the searches that are about to be rewarded touch.
        searcher: The vectors as they are.
        stamps: The optimizer step at which each document was encoded.
        moved: Cosine distance, 1 − cosine, from where each document was thought to be to where its last encoding found
            it; NaN where that is not known.
        alive: False for documents that were removed.
        step: Optimizer steps done; documents with this stamp are up to date.
    """

    seen: Touched
    searcher: Searcher
    stamps: Int64[Tensor, "docs"]
    moved: Float[Tensor, "docs"]
    alive: Bool[Tensor, "docs"]
    step: int

    @property
    def stale(self) -> Bool[Tensor, "docs"]:
        """Documents that are still there, and that the present weights did not encode."""
        return self.alive & (self.stamps != self.step)


class BaseRefresh(ABC):
    """Chooses documents to encode again before searches are rewarded; a pure function of what it is shown.

    A policy ranks documents. What it ranks first is chosen, but for a share of the budget that goes to the documents
    encoded longest ago, ties scattered; so does whatever room the ranking leaves. Documents that are up to date or
    removed are never chosen.

    Where every refresh is of at least ``b`` documents and there are ``n``, every document is younger than
    ``ceil(n / ceil(sweep * b))`` refreshes after each of them: whenever a document waits, ``ceil(sweep * b)`` at least
    as old as it cease to be.

    Args:
        sweep: Share of every budget for the oldest documents, rounded up; with 0 no age is bounded.

    Raises:
        ConfigError: The share is not between 0 and 1.
    """

    looks: ClassVar[bool] = True
    """Whether it looks at the searches that are about to be rewarded, which are then made once more before."""

    def __init__(self, sweep: float) -> None:
        if not 0 <= sweep <= 1:
            raise ConfigError(f"{ARGUMENTS}.sweep: expected 0 to 1; got {sweep}; it is a share of the budget")
        self.sweep = sweep

    def select(self, view: View, budget: int) -> Int64[Tensor, "selected"]:
        """Rows to encode with the present model, ascending and unique; as many as the budget allows.

        Args:
            view: What there is to know.
            budget: The most documents to choose.

        Raises:
            ValueError: The budget is negative.
            ConfigError: What is ranked are no rows.
        """
        if budget < 0:
            raise ValueError(f"budget: expected at least 0; got {budget}")
        stale = view.stale
        waiting, count = stale.clone(), int(stale.sum())
        budget = min(self.quota(budget, count), count)
        room = budget - math.ceil(self.sweep * budget)
        if room:
            ranked = self._checked(self.rank(view, room), len(waiting))
            waiting[_distinct(ranked[waiting[ranked]])[:room]] = False
        chosen = stale & ~waiting
        chosen[_oldest(waiting, view.stamps, budget - int(chosen.sum()))] = True
        return chosen.nonzero()[:, 0]

    def _checked(self, ranked: Tensor, count: int) -> Int64[Tensor, "ranked"]:
        whole = ranked.dtype == torch.int64 and ranked.ndim == 1
        if not whole or bool(((ranked < 0) | (ranked >= count)).any()):
            raise ConfigError(
                f"environment.init_args.refresh: expected rows from {type(self).__name__}.rank, int64 from 0 to "
                f"{count - 1} in one dimension; got {ranked.dtype} of shape {tuple(ranked.shape)}"
                + (f" from {ranked.min().item()} to {ranked.max().item()}" if ranked.numel() else "")
            )
        return ranked

    def quota(self, budget: int, waiting: int) -> int:
        """How many documents to choose: the budget, except for policies that have no use for one.

        Args:
            budget: What the environment allows.
            waiting: Documents that are not up to date.
        """
        return budget

    @abstractmethod
    def rank(self, view: View, room: int) -> Int64[Tensor, "ranked"]:
        """Rows in order of preference; those that repeat, are up to date or removed are passed over.

        Args:
            view: What there is to know.
            room: How many of them will be chosen, at least one. Documents that should be refreshed together or not at
                all stand first, as many as fit into the room.
        """


def oldest_first(stamps: Int64[Tensor, "some"], rows: Int64[Tensor, "some"]) -> Int64[Tensor, "some"]:
    """Numbers in whose order rows are swept: by stamp, ties scattered over the corpus, the same ones in every run.

    Neighbouring rows are often alike. Were they swept together, what a correction learns from them would not hold for
    the others.
    """
    return stamps * 2**32 + rows * _GOLDEN % 2**32


def at_least(name: str, value: int, least: int) -> None:
    """Refuses numbers that are too low.

    Raises:
        ConfigError: The argument called ``name`` is below ``least``.
    """
    if value < least:
        raise ConfigError(f"{ARGUMENTS}.{name}: expected at least {least}; got {value}")


def _distinct(rows: Int64[Tensor, "any"]) -> Int64[Tensor, "distinct"]:
    """Each row once, in the order of first appearance."""
    unique, places = rows.unique(return_inverse=True)
    first = torch.full_like(unique, len(rows)).scatter_reduce(0, places, torch.arange(len(rows)), "amin")
    distinct: Tensor = unique[first.argsort()]
    return distinct


def _oldest(waiting: Bool[Tensor, "docs"], stamps: Int64[Tensor, "docs"], count: int) -> Int64[Tensor, "count"]:
    """The ``count`` rows of lowest stamp, in no order; linear in the corpus, where sorting is not."""
    rows = waiting.nonzero()[:, 0]
    return rows[oldest_first(stamps[rows], rows).topk(count, largest=False, sorted=False).indices]
