"""Data sets of the Hugging Face ``datasets`` library that are trained on without being held as a whole."""

import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import fsspec.asyn
import numpy as np
from torch.utils.data import get_worker_info

from srch3.data.base import positives_of
from srch3.data.corpus import Corpus
from srch3.data.examples import DocumentPool, Example, text_id
from srch3.data.hub import HubDataModule, examples_of, load_tables
from srch3.data.loaders import TrainBatchBuilder, finished_batches, process_of
from srch3.data.sampler import EpochBatchSampler
from srch3.data.selection import stable_share
from srch3.data.thoughts import ThoughtSource
from srch3.data.windows import StreamLoader, WindowedStream
from srch3.errors import ConfigError
from srch3.types import Query, Split

log = logging.getLogger(__name__)


class HubStreamDataModule(HubDataModule):
    """A data set on the hub, or in files, whose training rows are read while they are trained on; one query per row.

    Validation and test are held as by ``HubDataModule``, and their documents are the corpus. There is no training
    corpus, so that stage 2, and thoughts that are learnt from all training data, are not for streams. Rows with the
    same query are one query where they are read together. Training has no known length: set ``trainer.max_steps``.

    The files are read one after the other, in an order drawn by (seed, epoch), and a buffer of rows is mixed at a time.
    Every process reads the whole stream and keeps its share of each batch. A run that is resumed reads again, quickly,
    what its epoch had read before.

    Args:
        path: Name on the hub, a folder of files, or, with ``data_files``, what these are: parquet, json or csv.
        data_files: File of each split, or a pattern such as ``FOLDER/*.parquet``.
        shuffle_buffer: Rows that are read and mixed at a time.
        val_rows: Where there is no validation split, so many rows from the beginning of the training split are
            validated on, and left out of training.
        **kwargs: What ``HubDataModule`` takes.

    Raises:
        ConfigError: Where a number is out of range, or something needs the training corpus.
        DataError: Where the data set, a split or a column is absent, or a value is not text.
    """

    def __init__(
        self,
        path: str,
        data_files: dict[str, str] | None = None,
        shuffle_buffer: int = 10_000,
        val_rows: int = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, val_fraction=0.1, **kwargs)  # of a stream no fraction can be held out
        if self._limits["train"] is not None:
            raise ConfigError(
                "data.init_args.limit_train: expected none, since a stream is never seen as a whole; got"
                f" {self._limits['train']}; use trainer.max_steps or train_slice"
            )
        for name, value in {"shuffle_buffer": shuffle_buffer, "val_rows": val_rows}.items():
            if value < 1:
                raise ConfigError(f"data.init_args.{name}: expected at least 1; got {value}")
        self.data_files = data_files
        self.shuffle_buffer = shuffle_buffer
        self.val_rows = val_rows

    def given(self, split: Split) -> bool:
        """Whether the rows of a split are held: those of training are not."""
        return split == "val" or (split == "test" and super().given("test"))

    def examples(self, split: Split) -> Iterator[Example]:
        """Reads the rows of a split; without a validation split, the first ones of training."""
        if split == "val" and not super().given("val"):
            table = self._training_table()
            return islice(examples_of(table, self._named_columns(table), self.path), self.val_rows)
        return super().examples(split)

    def load(self, split: Split) -> list[Query]:
        """The queries of validation or test."""
        if split == "train":
            raise self._not_held()
        return super().load(split)

    def load_corpus(self, split: Split) -> Corpus:
        """The documents of validation and test."""
        if split == "train":
            raise self._not_held()
        return super().load_corpus(split)

    def setup(self, stage: str) -> None:
        """Loads and checks what a stage needs, which for ``fit`` is the validation split."""
        if stage == "fit":
            self._check_training()
        super().setup("validate" if stage == "fit" else stage)

    def train_dataloader(self) -> StreamLoader:  # type: ignore[override]  # it has no length
        """Batches of training queries with their positives and negatives, resumable at any batch."""
        rank, world_size = process_of(self.trainer)
        size = self.batch_size * world_size
        if self.shuffle_buffer < size:
            raise ConfigError(
                f"data.init_args.shuffle_buffer: expected at least the {size} queries of a step; got"
                f" {self.shuffle_buffer}"
            )
        table = self._training_table()
        place = f"{self.path}, {self._names['train']}"
        read = _Rows(table, self._named_columns(table), place, self._held(), self.train_slice, self.seed)
        cut = _Cut(
            self.thoughts, self.negatives, self.batch_size, rank, world_size, self.positives, self.bucket_batches
        )
        window = self.shuffle_buffer // size * size
        stream = WindowedStream(read, cut, window, size, self.invalid, self.seed)
        return StreamLoader(stream, self.num_workers, finished_batches(self.trainer), self._steps())

    def _steps(self) -> int | None:
        """Batches per epoch of the Trainer, where it was told."""
        limit = self.trainer.limit_train_batches if self.trainer else None
        return limit if isinstance(limit, int) else None

    @cached_property
    def _pool(self) -> DocumentPool:
        """In a folder that goes with this object: of what a stream is made cannot be told beforehand."""
        folder = Path(tempfile.mkdtemp(prefix="srch3-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._write(folder)
        return DocumentPool(folder)

    def _loaded(self) -> Mapping[str, Any]:
        if self._tables is None:
            files = {} if self.data_files is None else {"data_files": self.data_files}
            self._tables = load_tables(self.path, self.config, streaming=True, **files)
        return self._tables

    def _training_table(self) -> Any:
        super().given("train")
        return self._loaded()[self._names["train"]]

    def _held(self) -> frozenset[str]:
        """Ids and texts of the queries of validation and test, which are not trained on."""
        splits: list[Split] = ["val", "test"] if self.has("test") else ["val"]
        return frozenset(
            chain.from_iterable((query.id, query.text) for split in splits for query in self._checked(split))
        )

    def _check_training(self) -> None:
        if type(self.thoughts).fit is not ThoughtSource.fit:
            raise ConfigError(
                "data.init_args.thoughts: expected ColumnThoughts or NoThoughts, since a stream is never seen as a"
                f" whole; got {type(self.thoughts).__name__}; write thoughts into a column, or use HubDataModule"
            )
        if self.trainer and self.trainer.max_steps < 0 and self._steps() is None:
            raise ConfigError(
                "trainer.max_steps: expected a number, since nobody knows the length of a stream; got none; set it, or"
                " trainer.limit_train_batches to the steps of an epoch"
            )
        interval = self.trainer.val_check_interval if self.trainer else None
        if isinstance(interval, float) and interval != 1.0 and self._steps() is None:
            raise ConfigError(
                "trainer.val_check_interval: expected a number of steps, since nobody knows the length of a stream; got"
                f" the share {interval}; say for example 1000"
            )

    def _not_held(self) -> ConfigError:
        return ConfigError(
            "data: expected a data module that holds its training data, since stage 2, or the command, looks at all of"
            f" it; got {type(self).__name__}, which streams; use HubDataModule"
        )


@dataclass(frozen=True)
class _Rows:
    """Reads the training examples of an epoch, a file after the other."""

    table: Any
    columns: Mapping[str, str]
    place: str
    held: frozenset[str]
    interval: tuple[float, float]
    seed: int

    def __call__(self, epoch: int) -> Iterator[Example]:
        if get_worker_info() is not None:
            fsspec.asyn.reset_lock()  # a forked process has no part in the thread that the lock is for, and would hang
        low, high = self.interval
        count = self.table.num_shards
        left_out = 0
        for part in np.random.default_rng([self.seed, epoch]).permutation(count).tolist():
            shard = self.table.shard(num_shards=count, index=part)
            for example in examples_of(shard, self.columns, f"{self.place}, part {part}"):
                query_id = text_id(example.query)
                if not self.held.isdisjoint((query_id, example.query)):
                    left_out += 1
                elif low <= stable_share(query_id, "slice") < high:
                    yield example
        if left_out and not epoch:
            log.warning("train: left out %d rows whose query is in validation or test too", left_out)


@dataclass(frozen=True)
class _Cut:
    """Cuts a window into batches as a whole data set is cut."""

    thoughts: ThoughtSource
    negatives: int | None
    batch_size: int
    rank: int
    world_size: int
    positives: int
    bucket_batches: int

    def __call__(
        self, queries: Sequence[Query], corpus: Corpus, seed: int
    ) -> tuple[EpochBatchSampler, TrainBatchBuilder]:
        texts, lengths = positives_of(queries, corpus)
        sampler = EpochBatchSampler(
            texts, self.batch_size, seed, self.rank, self.world_size, self.positives, self.bucket_batches, lengths
        )
        return sampler, TrainBatchBuilder(queries, corpus, self.thoughts, self.negatives, seed)
