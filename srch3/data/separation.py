"""Cutting an order of queries into batches in which no text is the positive of two queries."""

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int64


def separated(
    order: Int64[np.ndarray, "queries"],
    owners: Int64[np.ndarray, "positives"],
    texts: Int64[np.ndarray, "positives"],
    size: int,
) -> list[list[int]]:
    """Cuts an order into full batches, and puts off queries that would share a text with another of their batch.

    Greedy: first one query of each text that was put off, oldest first, then the next ones in order. Of a text with
    more queries than there are batches, the surplus, evenly spread over all of them, may share. What is still put off
    when the order ends fills the last batches, and may have to share too.

    Args:
        order: Each query once.
        owners: Query of each positive, ascending.
        texts: Number of each positive's text, from zero on; no query has one twice.
        size: Queries per batch.
    """
    repeated = np.bincount(texts)[texts] > 1
    owners, texts = owners[repeated], texts[repeated]
    surplus = _surplus(order, owners, texts, len(order) // size)
    ends = np.searchsorted(owners, np.arange(len(order) + 1))
    return list(_Cutter(ends.tolist(), texts.tolist(), surplus.tolist()).cut(order.tolist(), size))


class _Cutter:
    """The greedy walk; flat lists, because a container per query would take more time than the walk.

    Args:
        ends: The texts of query ``q`` that others have too are ``texts[ends[q] : ends[q + 1]]``.
        texts: Their numbers.
        surplus: Whether the query may share it.
    """

    def __init__(self, ends: list[int], texts: list[int], surplus: list[bool]) -> None:
        self._ends = ends
        self._texts = texts
        self._surplus = surplus
        self._put_off: dict[int, deque[int]] = {}

    def cut(self, order: Sequence[int], size: int) -> Iterator[list[int]]:
        """All full batches."""
        coming = iter(order)
        for _ in range(len(order) // size):
            batch, seen = self._take(size)
            while len(batch) < size and (query := next(coming, None)) is not None:
                clash = self._clash(query, seen) if seen else None
                if clash is None:
                    self._add(query, batch, seen)
                else:
                    self._put_off.setdefault(clash, deque()).append(query)
            while len(batch) < size:
                batch += self._take(size - len(batch))[0]
            yield batch

    def _take(self, limit: int) -> tuple[list[int], set[int]]:
        """Removes and returns queries that were put off and share no text, with their texts."""
        batch: list[int] = []
        seen: set[int] = set()
        for text, waiting in list(self._put_off.items()):
            if len(batch) == limit:
                break
            if self._clash(waiting[0], seen) is None:
                self._add(waiting.popleft(), batch, seen)
                if not waiting:
                    del self._put_off[text]
        return batch, seen

    def _clash(self, query: int, seen: set[int]) -> int | None:
        for place in range(self._ends[query], self._ends[query + 1]):
            if self._texts[place] in seen and not self._surplus[place]:
                return self._texts[place]
        return None

    def _add(self, query: int, batch: list[int], seen: set[int]) -> None:
        batch.append(query)
        seen.update(self._texts[self._ends[query] : self._ends[query + 1]])


def _surplus(
    order: Int64[np.ndarray, "queries"],
    owners: Int64[np.ndarray, "positives"],
    texts: Int64[np.ndarray, "positives"],
    batches: int,
) -> Bool[np.ndarray, "positives"]:
    """Which positives must share a batch with another of their text, evenly spread over all of their text."""
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    by_text = np.lexsort((places[owners], texts))
    _, starts, counts = np.unique(texts[by_text], return_index=True, return_counts=True)
    total = np.repeat(counts, counts)
    excess = np.maximum(total - batches, 0)
    ranks = np.arange(len(texts)) - np.repeat(starts, counts)

    def before(rank: Int64[np.ndarray, "positives"]) -> Int64[np.ndarray, "positives"]:
        """How many of the places (2 p + 1) total / (2 excess), p = 0, 1, …, lie before a rank."""
        found: Int64[np.ndarray, "positives"] = -((total - 2 * excess * rank) // (2 * total))
        return found

    surplus: Bool[np.ndarray, "positives"] = np.empty(len(texts), bool)
    surplus[by_text] = before(ranks + 1) > before(ranks)
    return surplus
