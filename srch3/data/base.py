"""What every data set has in common: judged queries, the documents they are searched in, and loaders of both."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import get_args

import lightning as L

from srch3.data.changing import ChangingCorpus
from srch3.data.checks import Invalid, check_ids, check_texts, fit_to_train_on, with_something_to_find
from srch3.data.corpus import Corpus
from srch3.data.fingerprints import fingerprints
from srch3.data.loaders import (
    BatchLoader,
    TrainBatchBuilder,
    TrainLoader,
    build_query_batch,
    finished_batches,
    process_of,
)
from srch3.data.sampler import EpochBatchSampler, Lengths
from srch3.data.selection import sample, slice_of
from srch3.data.thoughts import ColumnThoughts, ThoughtSource
from srch3.errors import ConfigError, DataError
from srch3.types import Query, QueryBatch, Split

log = logging.getLogger(__name__)

_STAGES: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class RetrievalDataModule(L.LightningDataModule, ABC):
    """Judged queries and the documents they are searched in.

    A subclass says how to load them (``load``, ``load_corpus``, and ``has`` where a split may be absent). This class
    checks them, keeps training apart from validation and test, and batches them. Works without a Trainer as well:
    ``data.setup("fit")``, then ``data.train_dataloader()``.

    Args:
        batch_size: Training queries per step and process.
        eval_batch_size: Queries per step and process in validation, test and prediction.
        num_workers: Worker processes that prepare batches; 0 prepares them in the training process.
        seed: Decides the order of training and what ``limit_train``, ``limit_val`` and ``limit_test`` draw.
        thoughts: What the model learns to think for a training query; by default the thought that the data set gives.
        train_slice: Train only on queries whose hash lies in this interval, from the first number up to but not
            including the second, both in 0 to 1. Two stages with slices that do not overlap share no training query.
        limit_train: Train on at most this many queries, drawn by the seed; all by default.
        limit_val: Validate on at most this many queries, drawn by the seed; all by default.
        limit_test: Test and predict on at most this many queries, drawn by the seed; all by default.
        positives: How many of its relevant documents a training query has in a step, drawn anew in each epoch; fewer
            where it has fewer.
        negatives: How many of its hard negatives a training query has in a step, drawn anew in each epoch; all by
            default.
        invalid: What to do where training data is invalid: a query that has no relevant document, no text, or a weight
            that is NaN, infinite or negative; a relevant document or hard negative without text; a hard negative that
            is relevant or has the text of a relevant document. ``error`` names the first one; ``skip`` leaves out that
            query, relevant document or negative alone, and logs how many. A validation or test query without text is
            an error always.
        bucket_batches: Let training batches hold queries of similar length, together with their relevant documents:
            so many batches' worth of them are sorted before they are cut. 1 sorts nothing.

    Raises:
        ConfigError: Where a number is out of range.
    """

    def __init__(
        self,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        thoughts: ThoughtSource | None = None,
        train_slice: tuple[float, float] = (0.0, 1.0),
        limit_train: int | None = None,
        limit_val: int | None = None,
        limit_test: int | None = None,
        positives: int = 1,
        negatives: int | None = None,
        invalid: Invalid = "error",
        bucket_batches: int = 1,
    ) -> None:
        super().__init__()
        _check_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        _check_at_least(1, limit_train=limit_train, limit_val=limit_val, limit_test=limit_test)
        _check_at_least(1, positives=positives, bucket_batches=bucket_batches)
        _check_at_least(0, num_workers=num_workers, seed=seed, negatives=negatives)
        if invalid not in get_args(Invalid):
            raise ConfigError(f"data.init_args.invalid: expected error or skip; got {invalid!r}")
        if not 0 <= train_slice[0] < train_slice[1] <= 1:
            raise ConfigError(
                "data.init_args.train_slice: expected two numbers a, b with 0 <= a < b <= 1;"
                f" got {list(train_slice)}; use [0.0, 1.0] for all training queries"
            )
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.thoughts = thoughts or ColumnThoughts()
        self.train_slice = train_slice
        self.positives = positives
        self.negatives = negatives
        self.invalid = invalid
        self.bucket_batches = bucket_batches
        self._limits: dict[Split, int | None] = {
            "train": limit_train,
            "val": limit_val,
            "test": limit_test,
            "predict": limit_test,
        }
        self._corpora: dict[Split, ChangingCorpus] = {}
        self._valid: dict[Split, list[Query]] = {}
        self._queries: dict[Split, list[Query]] = {}

    @abstractmethod
    def load(self, split: Split) -> list[Query]:
        """Reads all queries of a split; ``predict`` may give those of the test split."""

    @abstractmethod
    def load_corpus(self, split: Split) -> Corpus:
        """Reads the documents that a split is searched in; the same object for splits that share them."""

    def has(self, split: Split) -> bool:
        """Whether ``load`` can give this split; only the test split may be absent."""
        return True

    def write_negatives(self, folder: Path, negatives: Mapping[str, Sequence[str]]) -> str:
        """Writes the training data with other hard negatives, in the format it came from; the rest stays as it is.

        Args:
            folder: Where to; absent or empty.
            negatives: Document ids, best first, by query id. A query that is not among them keeps the ones it has.

        Returns:
            The options of the command line that use what was written.

        Raises:
            ConfigError: Where this data set has no format to write, or the folder holds something.
            DataError: Where an id is unknown.
        """
        raise ConfigError(
            "data: expected a BeirDataModule, JsonlDataModule or HubDataModule to write hard negatives for;"
            f" got {type(self).__name__}; bring its pairs into one of their formats first"
        )

    def corpus(self, split: Split) -> ChangingCorpus:
        """The documents that a split is searched in; the same object for splits that share them.

        Documents can be added, replaced and removed, also during a run: the environment follows at its next step.
        """
        if split not in self._corpora:
            loaded = self.load_corpus(split)
            known = [corpus for corpus in self._corpora.values() if corpus.base is loaded]
            self._corpora[split] = known[0] if known else ChangingCorpus(loaded)
        return self._corpora[split]

    def queries(self, split: Split) -> list[Query]:
        """The queries that a split trains or is measured on, after everything that the settings leave out.

        Raises:
            DataError: Where an id is wrong or comes twice, a judgement names no document, a query has no text, training
                data is invalid (see ``invalid``), or no query is left.
        """
        if split not in self._queries:
            chosen = self._checked(split)
            if split == "train":
                chosen = slice_of(self._without_leaks(chosen), self.train_slice)
            chosen = sample(chosen, self._limits[split], self.seed)
            if not chosen:
                raise DataError(
                    f"data: expected at least one query with a relevant document in {split}; got none;"
                    " check the judgements, and the fraction, slice or limit that is set"
                )
            self.corpus(split).protect(chain.from_iterable((*query.relevant, *query.negatives) for query in chosen))
            self._queries[split] = chosen
        return self._queries[split]

    def setup(self, stage: str) -> None:
        """Loads and checks what a stage needs: ``fit``, ``validate``, ``test`` or ``predict``."""
        for split in _STAGES[stage]:
            self.queries(split)
            self.corpus(split)

    def train_dataloader(self) -> TrainLoader:
        """Batches of training queries with their positives and negatives, resumable at any batch."""
        queries, corpus = self.queries("train"), self.corpus("train")
        self.thoughts.fit(corpus, queries)
        rank, world_size = process_of(self.trainer)
        texts, lengths = positives_of(queries, corpus)
        sampler = EpochBatchSampler(
            texts, self.batch_size, self.seed, rank, world_size, self.positives, self.bucket_batches, lengths
        )
        builder = TrainBatchBuilder(queries, corpus, self.thoughts, self.negatives, self.seed)
        return TrainLoader(sampler, builder, self.num_workers, finished_batches(self.trainer))

    def val_dataloader(self) -> BatchLoader[Query, QueryBatch]:
        """Validation queries in their given order."""
        return self._query_loader("val")

    def test_dataloader(self) -> BatchLoader[Query, QueryBatch]:
        """Test queries in their given order."""
        return self._query_loader("test")

    def predict_dataloader(self) -> BatchLoader[Query, QueryBatch]:
        """Queries to predict for, judged or not, in their given order."""
        return self._query_loader("predict")

    def _query_loader(self, split: Split) -> BatchLoader[Query, QueryBatch]:
        """Rank ``r`` of ``n`` gets queries r, r + n, r + 2n, …: each query once, none twice to fill up."""
        rank, world_size = process_of(self.trainer)
        if len(self.queries(split)) < world_size:
            raise ConfigError(
                f"data: expected at least one {split} query per process; got {len(self.queries(split))} for"
                f" {world_size}; use more queries or fewer trainer.devices"
            )
        share = self.queries(split)[rank::world_size]
        batches = [share[first : first + self.eval_batch_size] for first in range(0, len(share), self.eval_batch_size)]
        return BatchLoader(batches, build_query_batch, self.num_workers)

    def _checked(self, split: Split) -> list[Query]:
        """The valid queries of a split; but for prediction, those that have something to find."""
        if split not in self._valid:
            queries, corpus = self.load(split), self.corpus(split)
            check_ids(queries, corpus, split)
            if split == "train":
                self._valid[split] = fit_to_train_on(queries, corpus, self.invalid)
            else:
                check_texts(queries, split)
                self._valid[split] = queries if split == "predict" else with_something_to_find(queries, split)
        return self._valid[split]

    def _without_leaks(self, queries: Sequence[Query]) -> list[Query]:
        """Training queries, but for those that validation or test ask too."""
        held: list[Split] = ["val", "test"] if self.has("test") else ["val"]
        others = list(chain.from_iterable(self._checked(split) for split in held))
        ids, texts = {query.id for query in others}, {query.text for query in others}
        kept = [query for query in queries if query.id not in ids and query.text not in texts]
        if len(kept) < len(queries):
            log.warning(
                "train: left out %d queries whose id or text is in validation or test too", len(queries) - len(kept)
            )
        return kept


def _check_at_least(least: int, **settings: int | None) -> None:
    for name, value in settings.items():
        if value is not None and value < least:
            raise ConfigError(f"data.init_args.{name}: expected at least {least}; got {value}")


def positives_of(queries: Sequence[Query], corpus: Corpus) -> tuple[list[list[int]], Lengths]:
    """For each query, the number and the length of each relevant document; equal texts have the same number."""
    found = fingerprints(corpus, [document_id for query in queries for document_id in query.relevant])
    numbers, lengths = iter(found.numbers.tolist()), iter(found.lengths.tolist())
    counts = [len(query.relevant) for query in queries]
    asked = Lengths([len(query.text) for query in queries], [list(islice(lengths, count)) for count in counts])
    return [list(islice(numbers, count)) for count in counts], asked
