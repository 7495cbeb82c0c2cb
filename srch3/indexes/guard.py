"""Whether an approximate structure can be trusted, and how hard it must be asked."""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

PROBES = 32
"""Stored vectors that are searched for in a probe, and as many of the queries that were asked last."""

REACH = 8
"""How many times the effort of the settings is tried before search becomes exact."""

INTERVAL = 20
"""A probe is due when as many vectors have changed, or been searched for, as a twentieth of the documents."""

LEAST_HITS = 100
"""A probe that compares fewer would leave too much to chance."""

_KEPT = 8
"""Queries kept of each search but the first after a merge, so that one step does not fill all places."""


class RecallGuard:
    """Probes a structure, raises the effort that it is asked with, and gives it up for a while where that fails.

    A probe compares at most ``2 * PROBES`` searches with exact ones, which is a scan of all documents. It is made after
    every merge, at the first search that follows, and then once per ``documents / INTERVAL`` changed vectors or
    queries. So each of these pays for about 1,280 comparisons of vectors, whatever the size of the corpus.

    Args:
        effort: What the structure is asked with at first, and again after each merge.
        min_recall: Share of the nearest documents that a probe must find.

    Attributes:
        effort: What the structure is asked with.
        usual: What was enough when it was built.
        exact: Whether it is passed over.
        recall: What the last probe found, the lower of that of stored vectors and that of queries.
        queries: Those that are kept.
        k: Hits per query that probes ask for: those of the last search, or ``LEAST_HITS`` if it asked for fewer.
        passed: Changes and queries since the last probe.
        fresh: Whether nothing was searched for since the last merge, so that the first real queries are due to be
            probed with.
    """

    def __init__(self, effort: int, min_recall: float) -> None:
        self.least, self.min_recall = effort, min_recall
        self.effort = self.usual = effort
        self.exact = self.fresh = False
        self.recall = math.nan
        self.queries: Float[Tensor, "recent dim"] | None = None
        self.k = LEAST_HITS
        self.passed = 0

    def noticed(self, count: int) -> None:
        """Takes note of changed vectors."""
        self.passed += count

    def asked(self, queries: Float[Tensor, "queries dim"], k: int) -> None:
        """Takes note of real queries, and keeps a few."""
        if len(queries) == 0:
            return
        self.passed += len(queries)
        self.k = max(LEAST_HITS, k)
        kept = queries[_spread(len(queries), PROBES if self.fresh else _KEPT).to(queries.device)].cpu()
        self.queries = kept if self.queries is None else torch.cat([self.queries, kept])[-PROBES:]

    def due(self, documents: int) -> bool:
        """Whether it is time for another probe."""
        return self.fresh or self.passed * INTERVAL >= documents

    def probe(
        self,
        stored: Float[Tensor, "docs dim"],
        recalls: Callable[[Tensor, int, list[int]], Iterator[Tensor]],
        merged: bool,
    ) -> None:
        """Decides what searches do from now on.

        Args:
            stored: Vectors to search for, beside the recent queries.
            recalls: Given queries, the number of hits and the efforts to try in turn, yields the recall of each query
                with each effort.
            merged: The structure is new.
        """
        start = self.least if merged or self.exact else self.effort
        efforts = [start]
        while efforts[-1] < REACH * self.least:
            efforts.append(min(2 * efforts[-1], REACH * self.least))
        probes = stored if self.queries is None else torch.cat([stored, self.queries.to(stored.device)])
        for effort, found in zip(efforts, recalls(probes, self.k, efforts), strict=False):
            parts = [part for part in (found[: len(stored)], found[len(stored) :]) if len(part)]
            self.effort, self.recall = effort, min(float(part.mean()) for part in parts)
            if self.recall >= self.min_recall:
                break
        if self.fresh and not merged:
            self.usual = max(self.usual, self.effort)
        self.passed, self.fresh = 0, merged
        self._judge()

    @property
    def worse(self) -> bool:
        """Whether more effort is needed than when the structure was built, or no effort is enough."""
        return self.exact or self.effort > self.usual

    def _judge(self) -> None:
        good = self.recall >= self.min_recall
        if not good and not self.exact:
            warnings.warn(
                f"index: expected the structure to find {self.min_recall:.1%} of the nearest documents; got "
                f"{self.recall:.1%} even with an effort of {self.effort}, so search is exact, and slower, until a "
                "later probe is good. Embeddings that have collapsed onto one point do this (look at the loss and its "
                "temperature); if they have not, raise the effort in the settings or take ExactIndex",
                stacklevel=2,
            )
        self.exact = not good

    def health(self) -> dict[str, float]:
        """Recall of the last probe, the effort in use, and whether search is exact for now."""
        return {"ann_recall": self.recall, "ann_effort": float(self.effort), "exact_fallback": float(self.exact)}

    def tensors(self) -> dict[str, Tensor]:
        """The queries that are kept, if any."""
        return {} if self.queries is None else {"probes": self.queries}

    def facts(self) -> dict[str, Any]:
        """The rest of the state; the recall may be ``None`` before the first probe."""
        recall = None if math.isnan(self.recall) else self.recall
        return {name: getattr(self, name) for name in _FACTS} | {"recall": recall}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Takes what :meth:`tensors` and :meth:`facts` gave."""
        self.queries = tensors["probes"].clone() if "probes" in tensors else None
        for name in _FACTS:
            setattr(self, name, facts[name])
        self.recall = math.nan if facts["recall"] is None else facts["recall"]


_FACTS = ("effort", "usual", "exact", "k", "passed", "fresh")


def _spread(count: int, wanted: int) -> Int64[Tensor, "wanted"]:
    return torch.linspace(0, count - 1, min(wanted, count), dtype=torch.float64).round().long()
