"""The order of training: which queries stand together in which batch, as a pure function of a seed and an epoch."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np

from srch3.errors import ConfigError


class Draw(NamedTuple):
    """One training example.

    Attributes:
        query: Position of the query.
        choice: Which of the query's relevant documents is its positive this time.
    """

    query: int
    choice: int


class EpochBatchSampler:
    """Batches of training examples, each query once per epoch.

    A pure function of seed, epoch, rank and world size: nothing is remembered, so that a run which is resumed at any
    batch sees exactly what an uninterrupted one would have seen. Training walks one endless stream of batches, in which
    a place is one number.

    - The order is a permutation seeded by (seed, epoch).
    - Each query's positive is drawn evenly from its relevant documents by (seed, epoch, query).
    - Two examples of a batch do not share the text of their positive where that can be avoided: the second is deferred
      to the next batch. Of a text with more examples than there are batches, the surplus is spread over the epoch; what
      is still deferred at its end may have to share too.
    - A batch goes to all ranks, each of which takes its contiguous share. The last batch is dropped where it is short,
      unless it is the only one.

    Args:
        positives: For each query, one number per relevant document; equal numbers stand for equal texts.
        batch_size: Queries per batch and process.
        seed: Non-negative.
        rank: This process.
        world_size: Number of processes.

    Raises:
        ConfigError: Where there are fewer queries than processes, or a number is out of range.
    """

    def __init__(
        self, positives: Sequence[Sequence[int]], batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"data.init_args.batch_size: expected at least 1; got {batch_size}")
        if seed < 0:
            raise ConfigError(f"data.init_args.seed: expected at least 0; got {seed}")
        if len(positives) < world_size:
            raise ConfigError(
                f"data: expected at least one training query per process; got {len(positives)} for {world_size}"
            )
        self._positives = positives
        self._share = min(batch_size, len(positives) // world_size)
        self._seed = seed
        self._rank = rank
        self._world_size = world_size

    @property
    def batch_size(self) -> int:
        """Queries per batch and process; fewer than asked for where there are not enough."""
        return self._share

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._positives) // (self._share * self._world_size)

    def batches(self, epoch: int) -> list[list[Draw]]:
        """This rank's share of every batch of an epoch."""
        first = self._rank * self._share
        return [batch[first : first + self._share] for batch in self._global_batches(self._draws(epoch))]

    def stream(self, position: int) -> Iterator[list[Draw]]:
        """This rank's share of all batches to come, epoch after epoch without end.

        Args:
            position: Number of batches already done, counted from the first of epoch 0.
        """
        first_epoch, start = divmod(position, len(self))
        for epoch in count(first_epoch):
            yield from self.batches(epoch)[start:]
            start = 0

    def _draws(self, epoch: int) -> list[Draw]:
        queries = len(self._positives)
        order = np.random.default_rng([self._seed, epoch, 0]).permutation(queries)
        chances = np.random.default_rng([self._seed, epoch, 1]).random(queries)
        return [Draw(query, int(chances[query] * len(self._positives[query]))) for query in order.tolist()]

    def _global_batches(self, draws: Sequence[Draw]) -> Iterator[list[Draw]]:
        """Greedy: first one example of each deferred text, oldest first, then the next ones in order."""
        size = self._share * self._world_size
        coming = iter(draws)
        surplus = self._surplus(draws)
        deferred: dict[int, deque[Draw]] = {}
        for _ in range(len(self)):
            batch, texts = _take_deferred(deferred, size)
            while len(batch) < size and (draw := next(coming, None)) is not None:
                text = self._positives[draw.query][draw.choice]
                if text in texts and draw not in surplus:
                    deferred.setdefault(text, deque()).append(draw)
                else:
                    texts.add(text)
                    batch.append(draw)
            while len(batch) < size:
                batch += _take_deferred(deferred, size - len(batch))[0]
            yield batch

    def _surplus(self, draws: Sequence[Draw]) -> set[Draw]:
        """Those that must share a batch with another of their text, evenly spread over all of their text."""
        by_text: dict[int, list[Draw]] = {}
        for draw in draws:
            by_text.setdefault(self._positives[draw.query][draw.choice], []).append(draw)
        surplus: set[Draw] = set()
        for same in by_text.values():
            excess = max(0, len(same) - len(self))
            surplus.update(same[(2 * place + 1) * len(same) // (2 * excess)] for place in range(excess))
        return surplus


def _take_deferred(deferred: dict[int, deque[Draw]], limit: int) -> tuple[list[Draw], set[int]]:
    """Removes and returns at most one example per text, with the texts."""
    texts = list(deferred)[:limit]
    batch = [deferred[text].popleft() for text in texts]
    for text in texts:
        if not deferred[text]:
            del deferred[text]
    return batch, set(texts)
