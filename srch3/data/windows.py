"""Training batches from a stream of examples that is never held as a whole: a window of it at a time."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any, TypedDict

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from srch3.data.checks import Invalid, log_left_out, without_flaws
from srch3.data.corpus import Corpus
from srch3.data.examples import Example, queries_of, text_id
from srch3.data.loaders import TrainBatchBuilder
from srch3.data.sampler import Draw, EpochBatchSampler
from srch3.errors import DataError
from srch3.types import Query, TrainBatch

log = logging.getLogger(__name__)

Cut = Callable[[Sequence[Query], Corpus, int], tuple[EpochBatchSampler, TrainBatchBuilder]]


class StreamPlace(TypedDict):
    """Where training stands, and how the data was cut.

    Attributes:
        position: Batches done since the beginning of training.
        epoch: Of the data.
        first: Batches that were done when it began.
        window: Examples per window.
        size: Queries per batch, over all processes.
    """

    position: int
    epoch: int
    first: int
    window: int
    size: int


class WindowedStream:
    """Cuts a stream into windows, and each window into batches, as if it were a data set of its own.

    Within a window, rows with the same query are one query, the order is drawn by (seed, epoch, window), and no text is
    the positive of two queries of a batch where that can be avoided. What does not fill a batch at the end of a window
    is left out.

    Args:
        read: The examples of an epoch, always the same ones in the same order.
        cut: Says which queries of a window stand together, given these, their documents and a seed.
        window: Examples per window.
        size: Queries per batch, over all processes.
        invalid: What to do with examples that cannot be learnt from.
        seed: Non-negative.
    """

    def __init__(
        self,
        read: Callable[[int], Iterable[Example]],
        cut: Cut,
        window: int,
        size: int,
        invalid: Invalid = "error",
        seed: int = 0,
    ) -> None:
        self._read = read
        self._cut = cut
        self.window = window
        self.size = size
        self._invalid = invalid
        self._seed = seed

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[TrainBatchBuilder, list[Draw]]]:
        """What this process' share of each batch of an epoch is made of, but for the first ones.

        Raises:
            DataError: Where an example cannot be learnt from, unless such are to be skipped.
        """
        examples = iter(self._read(epoch))
        left_out: Counter[str] = Counter()
        for number in count():
            window = list(islice(examples, self.window))
            if not window:
                break
            documents = {text_id(text): text for each in window for text in (*each.positives, *each.negatives)}
            corpus = Corpus(list(documents), list(documents.values()))
            queries, flaws = without_flaws(queries_of(window, text_id), corpus, self._invalid)
            left_out += flaws
            batches = len(queries) // self.size
            if batches > skip:
                seed = np.random.SeedSequence([self._seed, epoch, number]).generate_state(1)[0]
                sampler, builder = self._cut(queries, corpus, int(seed))
                for draws in sampler.batches(0)[skip:]:
                    yield builder, draws
            skip = max(0, skip - batches)
        if not epoch:
            log_left_out(left_out)


class StreamLoader:
    """Training batches of a stream, resumable at any one; each iteration goes on where training stands.

    By default an iteration ends with the epoch of the data, the length of which nobody knows beforehand. A place in the
    stream is found again by reading from the beginning of the epoch.

    Args:
        stream: What is read.
        workers: Worker processes, each of which reads the whole stream and prepares its share of the batches, which are
            the same with any number of workers; 0 prepares them in this process.
        finished: Counts the batches whose training step is over; None counts the batches handed out.
        steps: Batches per iteration, which then goes on into the next epoch of the data where it has to.

    Raises:
        DataError: In an iteration, where an epoch does not fill one batch.
    """

    def __init__(
        self,
        stream: WindowedStream,
        workers: int = 0,
        finished: Callable[[], int] | None = None,
        steps: int | None = None,
    ) -> None:
        self._stream = stream
        self._workers = workers
        self._finished = finished
        self._steps = steps
        self._served = 0
        self._epochs = {0: 0}

    def __iter__(self) -> Iterator[TrainBatch]:
        """The batches that are not done of an epoch, or as many as were asked for."""
        return islice(self._from(self._position()), self._steps)

    def _from(self, position: int) -> Iterator[TrainBatch]:
        while True:
            first, epoch = self._epoch_at(position)
            found = 0
            for batch in self._batches(epoch, position - first):
                self._served += 1
                found += 1
                yield batch
            position += found
            if position == first:
                raise DataError(
                    "data: expected a stream with enough training queries for one batch; got fewer;"
                    " check the columns, lower data.init_args.batch_size, and where there is no validation split also"
                    " data.init_args.val_rows, which are taken from the beginning of training"
                )
            self._epochs[position] = epoch + 1
            if found and self._steps is None:
                return

    def _batches(self, epoch: int, skip: int) -> Iterator[TrainBatch]:
        loader = DataLoader(
            _Share(self._stream, epoch, skip),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self._workers,
            generator=torch.Generator(),
        )
        return iter(loader)

    def _position(self) -> int:
        return self._served if self._finished is None else self._finished()

    def _epoch_at(self, position: int) -> tuple[int, int]:
        return max(entry for entry in self._epochs.items() if entry[0] <= position)

    def state_dict(self) -> StreamPlace:
        """The next batch to train on."""
        position = self._position()
        first, epoch = self._epoch_at(position)
        return StreamPlace(
            position=position, epoch=epoch, first=first, window=self._stream.window, size=self._stream.size
        )

    def load_state_dict(self, place: StreamPlace) -> None:
        """Goes on after the batches that were trained on; warns where the order cannot be that of the earlier run."""
        self._served = place["position"]
        self._epochs = {place["first"]: place["epoch"]}
        for name in ("window", "size"):
            if place[name] != self.state_dict()[name]:
                log.warning(
                    "train: the resumed run had %s %d and this one has %d: some queries of the interrupted epoch will"
                    " be repeated or left out", name, place[name], self.state_dict()[name],
                )  # fmt: skip


class _Share(IterableDataset[TrainBatch]):
    """What one worker makes of a stream: every batch where it is the only one."""

    def __init__(self, stream: WindowedStream, epoch: int, skip: int) -> None:
        self._stream, self._epoch, self._skip = stream, epoch, skip

    def __iter__(self) -> Iterator[TrainBatch]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for builder, draws in islice(self._stream.batches(self._epoch, self._skip), first, None, step):
            yield builder(draws)


def _as_it_is(batch: Any) -> Any:
    return batch
