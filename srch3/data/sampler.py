"""The order of training: which queries stand together in which batch, as a pure function of a seed and an epoch."""

from collections.abc import Iterator, Sequence
from itertools import chain, count, islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from srch3.data.separation import separated
from srch3.errors import ConfigError


class Draw(NamedTuple):
    """One training example.

    Attributes:
        query: Position of the query.
        choices: Which of the query's relevant documents are its positives this time.
        epoch: Of the data; what else is drawn for the example is a function of it.
    """

    query: int
    choices: tuple[int, ...]
    epoch: int = 0


class Lengths(NamedTuple):
    """Characters of each query, and of each of its relevant documents."""

    queries: Sequence[int]
    positives: Sequence[Sequence[int]]


class EpochBatchSampler:
    """Batches of training examples, each query once per epoch.

    A pure function of seed, epoch, rank and world size: nothing is remembered, so that a run which is resumed at any
    batch sees exactly what an uninterrupted one would have seen. Training walks one endless stream of batches, in which
    a place is one number.

    - The order is a permutation seeded by (seed, epoch).
    - Each query's positives are drawn evenly and without replacement from its relevant documents by (seed, epoch,
      query). Relevant documents of the same text count as one.
    - No text is the positive of two examples of a batch where that can be avoided: the second example is deferred to
      the next batch. Of a text with more examples than there are batches, the surplus is spread over the epoch; what is
      still deferred at its end may have to share too.
    - With ``bucket_batches`` above 1, examples of similar length stand together: so many batches' worth of the order
      are sorted by length before they are cut into batches, and the batches come in an order of their own.
    - A batch goes to all ranks, each of which takes its contiguous share. The last batch is dropped where it is short,
      unless it is the only one; which examples that leaves out does not depend on their lengths.

    Args:
        positives: For each query, one number per relevant document; equal numbers stand for equal texts.
        batch_size: Queries per batch and process.
        seed: Non-negative.
        rank: This process.
        world_size: Number of processes.
        choices: Positives per query and epoch; fewer where a query has fewer.
        bucket_batches: Batches that are sorted by length together; 1 sorts nothing.
        lengths: What ``bucket_batches`` above 1 sorts by: the length of a query and its positives together.

    Raises:
        ConfigError: Where there are fewer queries than processes, or a number is out of range.
    """

    def __init__(
        self,
        positives: Sequence[Sequence[int]],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        choices: int = 1,
        bucket_batches: int = 1,
        lengths: Lengths | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"data.init_args.batch_size: expected at least 1; got {batch_size}")
        if seed < 0:
            raise ConfigError(f"data.init_args.seed: expected at least 0; got {seed}")
        if len(positives) < world_size:
            raise ConfigError(
                f"data: expected at least one training query per process; got {len(positives)} for {world_size}"
            )
        self._queries = len(positives)
        self._share = min(batch_size, len(positives) // world_size)
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._choices = choices
        self._pairs = _pairs(positives, lengths)
        self._query_lengths = np.array(lengths.queries) if lengths else np.zeros(len(positives), np.int64)
        self._window = bucket_batches * self._size if bucket_batches > 1 else 0

    @property
    def batch_size(self) -> int:
        """Queries per batch and process; fewer than asked for where there are not enough."""
        return self._share

    @property
    def _size(self) -> int:
        return self._share * self._world_size

    def __len__(self) -> int:
        """Batches per epoch."""
        return self._queries // self._size

    def batches(self, epoch: int) -> list[list[Draw]]:
        """This rank's share of every batch of an epoch."""
        return list(self._batches(epoch))

    def stream(self, position: int) -> Iterator[list[Draw]]:
        """This rank's share of all batches to come, epoch after epoch without end.

        Args:
            position: Number of batches already done, counted from the first of epoch 0.
        """
        first_epoch, start = divmod(position, len(self))
        for epoch in count(first_epoch):
            yield from islice(self._batches(epoch), start, None)
            start = 0

    def _batches(self, epoch: int) -> Iterator[list[Draw]]:
        chosen = self._chosen(epoch)
        batches = separated(self._order(epoch, chosen), chosen.queries, chosen.texts, self._size)
        if self._window:
            batches = [batches[place] for place in self._random(epoch, 2).permutation(len(batches)).tolist()]
        places = chosen.places.tolist()
        ends = np.searchsorted(chosen.queries, np.arange(self._queries + 1)).tolist()
        first = self._rank * self._share
        for batch in batches:
            share = batch[first : first + self._share]
            yield [Draw(query, tuple(places[ends[query] : ends[query + 1]]), epoch) for query in share]

    def _chosen(self, epoch: int) -> "_Pairs":
        """The positives of an epoch: those that come first when a query's relevant documents are shuffled."""
        queries = self._pairs.queries
        shuffled = np.lexsort((self._random(epoch, 1).random(len(queries)), queries))
        turns = np.arange(len(queries)) - np.searchsorted(queries, queries)
        return _Pairs(*(column[shuffled[turns < self._choices]] for column in self._pairs))

    def _order(self, epoch: int, chosen: "_Pairs") -> Int64[np.ndarray, "queries"]:
        """A permutation, of which each window is sorted by length: upwards and downwards in turns, so that they fit.

        What no batch has room for is cut off beforehand and comes last.
        """
        order = self._random(epoch, 0).permutation(self._queries)
        if not self._window:
            return order
        lengths = self._query_lengths + np.bincount(chosen.queries, chosen.lengths, self._queries).astype(np.int64)
        full, spare = np.split(order, [len(self) * self._size])
        windows = np.arange(len(full)) // self._window
        return np.concatenate([full[np.lexsort((np.where(windows % 2, -1, 1) * lengths[full], windows))], spare])

    def _random(self, epoch: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, epoch, purpose])


class _Pairs(NamedTuple):
    """Queries with one relevant document each, in the order of the queries: positions, text numbers and lengths."""

    queries: Int64[np.ndarray, "pairs"]
    places: Int64[np.ndarray, "pairs"]
    texts: Int64[np.ndarray, "pairs"]
    lengths: Int64[np.ndarray, "pairs"]


def _pairs(positives: Sequence[Sequence[int]], lengths: Lengths | None) -> _Pairs:
    """All pairs, but of each query only the first of equal texts."""
    counts = np.array([len(own) for own in positives])
    queries = np.repeat(np.arange(len(counts)), counts)
    places = np.arange(len(queries)) - np.searchsorted(queries, queries)
    known, texts = np.unique(_flat(positives), return_inverse=True)
    characters = _flat(lengths.positives) if lengths else np.zeros_like(texts)
    _, first = np.unique(queries * len(known) + texts, return_index=True)
    return _Pairs(*(column[np.sort(first)] for column in (queries, places, texts, characters)))


def _flat(numbers: Sequence[Sequence[int]]) -> Int64[np.ndarray, "pairs"]:
    return np.fromiter(chain.from_iterable(numbers), np.int64)
