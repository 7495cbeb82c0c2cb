"""Keeping the vectors of a corpus up with a model that changes from step to step."""

import time

import torch
from jaxtyping import Int64
from torch import Tensor

from srch3.environments.budget import BaseBudget
from srch3.environments.correction import BaseCorrection, NoCorrection
from srch3.environments.ranks import from_first
from srch3.environments.refresh import BaseRefresh, View
from srch3.environments.state import CorpusState, Encode
from srch3.environments.touched import Touched, gather, nothing_touched, touched
from srch3.functional.distributed import mean_over_ranks
from srch3.indexes.checks import checked
from srch3.types import Pending


class Upkeep:
    """Before searches are rewarded, encodes some documents again and moves the others as these have moved.

    Args:
        state: The corpus and its vectors, every one of them encoded.
        refresh: Which documents are encoded again.
        budget: How many.
        correction: How the others are moved.
    """

    def __init__(
        self, state: CorpusState, refresh: BaseRefresh, budget: BaseBudget, correction: BaseCorrection
    ) -> None:
        self.state = state
        self.refresh, self.budget, self.correction = refresh, budget, correction
        self._refreshed, self._seconds = 0, 0.0
        self._followed: int | None = None

    def advance(self, pending: Pending, encode: Encode, step: int) -> dict[str, float]:
        """Follows the model; called again within a step, it encodes more documents, but all have been moved already.

        Args:
            pending: The searches that will be rewarded.
            encode: Encodes documents with the present weights.
            step: Optimizer steps done.

        Returns:
            What was done, and what came of it; see ``env/…`` in ``srch3/metrics/README.md``.
        """
        began, state = time.perf_counter(), self.state
        changed = state.follow(encode, step)
        seen = self._touched(pending) if self.refresh.looks else nothing_touched()
        view = View(seen, state.searcher, state.stamps, state.moved, state.alive, step)
        rows = from_first(self.refresh.select(view, self.budget.documents(int(view.alive.sum()))))
        figures = self._renew(rows, encode, step) if len(rows) else {}
        ages = (step - state.stamps[view.alive]).double()
        count, seconds = changed + len(rows), time.perf_counter() - began
        self._refreshed, self._seconds = self._refreshed + count, self._seconds + seconds
        return figures | {
            "size": float(len(ages)),
            "age_mean": float(ages.mean()),
            "age_max": float(ages.max()),
            "refreshed": float(count),
            "refreshed_share": count / len(ages),
            "refresh_seconds": seconds,
        }

    def account(self, step_seconds: float, device: torch.device) -> None:
        """Tells the budget what was done since the last call, in the same numbers on all ranks.

        Args:
            step_seconds: What the training step took, the refresh included.
            device: What processes communicate through.
        """
        seconds = torch.tensor([self._seconds, step_seconds], device=device)
        refresh, step = mean_over_ranks(seconds).tolist()
        self.budget.spent(self._refreshed, refresh, step)
        self._refreshed, self._seconds = 0, 0.0

    def _touched(self, pending: Pending) -> Touched:
        mine = touched(pending, self.state.searcher)
        self.state.finish()
        return gather(mine)

    def _renew(self, rows: Int64[Tensor, "some"], encode: Encode, step: int) -> dict[str, float]:
        state = self.state
        found = checked(encode(rows), "encode_documents")
        before = state.searcher.vectors_of(rows.to(found.device))
        state.correct(self.correction if step != self._followed else NoCorrection(), rows, found, step)
        self._followed = step
        state.store(rows, found, step)
        moved, unexplained = (1 - (before * found).sum(dim=1)).mean(), state.moved[rows].mean()
        return {"moved": float(moved), "unexplained": float(unexplained)}
