"""What a Trainer iterates over: batches of plain strings, and a place in them that a checkpoint can hold."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypedDict

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from typing_extensions import TypeVar

from srch3.data.corpus import Corpus
from srch3.data.sampler import Draw, EpochBatchSampler
from srch3.data.thoughts import ThoughtSource
from srch3.types import Query, QueryBatch, TrainBatch

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Batch = TypeVar("Batch", covariant=True, default=TrainBatch)


class Place(TypedDict):
    """Where training stands: batches done since its beginning, and how the data was cut into batches."""

    position: int
    batches: int
    batch_size: int


class TrainBatchBuilder:
    """Turns draws into a batch.

    Args:
        queries: What the draws count.
        corpus: Holds every judged document and every negative.
        thoughts: Gives each example the thought to learn, of which its first positive is the text that it may show.
        negatives: Hard negatives per example; all where None.
        seed: Decides which.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        corpus: Corpus,
        thoughts: ThoughtSource,
        negatives: int | None = None,
        seed: int = 0,
    ) -> None:
        self._queries = queries
        self._corpus = corpus
        self._thoughts = thoughts
        self._negatives = negatives
        self._seed = seed

    def __call__(self, draws: Sequence[Draw]) -> TrainBatch:
        """Looks up what the draws stand for, and draws negatives by seed, epoch and query."""
        queries = [self._queries[draw.query] for draw in draws]
        positive_ids = [_at(list(query.relevant), draw.choices) for query, draw in zip(queries, draws, strict=True)]
        positives = [self._texts(document_ids) for document_ids in positive_ids]
        negative_ids = [self._drawn_negatives(draw) for draw in draws]
        return TrainBatch(
            ids=[query.id for query in queries],
            texts=[query.text for query in queries],
            relevant=[query.relevant for query in queries],
            thoughts=[self._thoughts(query, texts[0]) for query, texts in zip(queries, positives, strict=True)],
            weights=[query.weight for query in queries],
            positive_ids=positive_ids,
            positives=positives,
            negative_ids=negative_ids,
            negatives=[self._texts(document_ids) for document_ids in negative_ids],
        )

    def _drawn_negatives(self, draw: Draw) -> list[str]:
        given = self._queries[draw.query].negatives
        if self._negatives is None or self._negatives >= len(given):
            return list(given)
        chance = np.random.default_rng([self._seed, draw.epoch, draw.query, 3])
        return _at(given, sorted(chance.choice(len(given), self._negatives, replace=False).tolist()))

    def _texts(self, document_ids: Sequence[str]) -> list[str]:
        return [self._corpus.texts[self._corpus.row(document_id)] for document_id in document_ids]


def _at(document_ids: Sequence[str], places: Sequence[int]) -> list[str]:
    return [document_ids[place] for place in places]


def build_query_batch(queries: Sequence[Query]) -> QueryBatch:
    """Lays queries out column by column."""
    return QueryBatch(
        [query.id for query in queries], [query.text for query in queries], [query.relevant for query in queries]
    )


class BatchLoader(Generic[Item, Batch]):
    """Builds batches from lists of items, in worker processes where asked to.

    A Trainer takes it as it is: it puts no sampler of its own into something that is not a ``DataLoader``. The global
    random state is not touched, so that iterating changes nothing about what a model samples.

    Args:
        batches: The items of each batch; iterated anew each time.
        build: Turns the items of a batch into the batch.
        workers: Worker processes; 0 builds in this one.
    """

    def __init__(
        self, batches: Sequence[Sequence[Item]], build: Callable[[Sequence[Item]], Batch], workers: int
    ) -> None:
        self._batches = batches
        self._build = build
        self._workers = workers

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """The batches in order."""
        return _built(self._batches, self._build, self._workers)


class TrainLoader(Generic[Batch]):
    """Training batches, resumable at any one; each iteration goes on where training stands.

    A Trainer decides where that is: it counts training steps and restores the count from a checkpoint. Its epochs may
    be shorter than those of the data (``limit_train_batches``): the next one goes on in the same order. The state
    tells it that the loader can be resumed, and lets a resumed run notice that its data is cut into other batches.

    Args:
        sampler: Decides what stands in which batch.
        build: Turns draws into a batch.
        workers: Worker processes; 0 builds in this one.
        finished: Counts the batches whose training step is over, so that one which was handed out but interrupted is
            repeated. None counts the batches handed out.
    """

    def __init__(
        self,
        sampler: EpochBatchSampler,
        build: Callable[[Sequence[Draw]], Batch],
        workers: int = 0,
        finished: Callable[[], int] | None = None,
    ) -> None:
        self._sampler = sampler
        self._build = build
        self._workers = workers
        self._finished = finished
        self._served = 0

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        """As many batches as an epoch has, from the next one on."""
        batches = islice(self._sampler.stream(self._position()), len(self))
        return self._counted(_built(batches, self._build, self._workers))

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._served += 1
            yield batch

    def _position(self) -> int:
        return self._served if self._finished is None else self._finished()

    def state_dict(self) -> Place:
        """The next batch to train on."""
        return Place(position=self._position(), batches=len(self), batch_size=self._sampler.batch_size)

    def load_state_dict(self, place: Place) -> None:
        """Goes on after the batches that were trained on; warns where the order cannot be that of the earlier run."""
        self._served = place["position"]
        for name in ("batches", "batch_size"):
            if place[name] != self.state_dict()[name]:
                log.warning(
                    "train: the resumed run had %s %d and this one has %d: some queries of the interrupted epoch will"
                    " be repeated or left out", name, place[name], self.state_dict()[name],
                )  # fmt: skip


def process_of(trainer: L.Trainer | None) -> tuple[int, int]:
    """Rank and world size; those of a single process where there is no Trainer."""
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


def finished_batches(trainer: L.Trainer | None) -> Callable[[], int] | None:
    """Counts the training steps of a Trainer that are over, over all epochs and across resumes; None without one.

    Under ``overfit_batches`` the count stays zero, so that every epoch repeats the same batches.
    """

    def finished() -> int:
        assert trainer is not None
        if trainer.overfit_batches > 0:  # type: ignore[attr-defined]
            return 0
        return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # type: ignore[attr-defined]

    return finished if trainer else None


class _Builder(Dataset[Batch], Generic[Item, Batch]):
    def __init__(self, build: Callable[[Sequence[Item]], Batch]) -> None:
        self._build = build

    def __getitem__(self, items: Sequence[Item]) -> Batch:
        return self._build(items)


def _built(
    batches: Iterable[Sequence[Item]], build: Callable[[Sequence[Item]], Batch], workers: int
) -> Iterator[Batch]:
    loader = DataLoader(
        _Builder(build),
        sampler=batches,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        generator=torch.Generator(),
    )
    return iter(loader)


def _as_it_is(batch: Batch) -> Batch:  # type: ignore[misc]
    return batch
