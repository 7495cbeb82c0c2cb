"""The results of ``predict`` as files: a TREC run for evaluation tools, and JSON lines to read."""

import json
from collections.abc import Iterable, Iterator, Sequence
from io import TextIOWrapper
from itertools import zip_longest
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from srch3.errors import ConfigError
from srch3.metrics.trec_files import check_ids, trec_lines
from srch3.run_config import run_folder
from srch3.types import Searches


class SearchResultsWriter(BasePredictionWriter):
    """Writes what ``predict`` finds into ``run.trec`` and ``searches.jsonl``.

    ``run.trec`` has one line ``query-id Q0 document-id rank score tag`` per hit. Evaluation tools ignore the rank and
    sort by the score in single precision, so equal scores are lowered by the least that keeps the order of the ranks.
    ``searches.jsonl`` has one object per query: id, text, thought, and the hits with their cosine similarities.
    Both appear, complete, at the end; every process writes a part of its own until then.

    Args:
        output_dir: Folder; by default ``predictions`` in the run's own folder.
        tag: Name of the system in the last column of the run.
    """

    def __init__(self, output_dir: str | None = None, tag: str = "srch3") -> None:
        super().__init__(write_interval="batch")
        if not tag or len(tag.split()) != 1:
            raise ConfigError(f"search_results.tag: expected one word; got {tag!r}")
        self.output_dir = output_dir
        self.tag = tag
        self._folder = Path()
        self._part: TextIOWrapper | None = None

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Opens this process' part."""
        folder = self.output_dir or str(run_folder(trainer) / "predictions")
        self._folder = Path(trainer.strategy.broadcast(folder))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._part = self._part_of(trainer.global_rank).open("w", encoding="utf-8")

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Appends one batch to this process' part.

        Args:
            trainer: Not used.
            pl_module: Names the culprit.
            prediction: What ``predict_step`` returned.
            batch_indices: Not used.
            batch: Not used.
            batch_idx: Not used.
            dataloader_idx: Not used.

        Raises:
            ConfigError: If the model does not predict searches.
            DataError: If an id cannot stand in a TREC run.
        """
        if not isinstance(prediction, Searches):
            got = f"{type(pl_module).__name__}.predict_step returns {type(prediction).__name__}"
            raise ConfigError(f"predict: expected a model whose predict_step returns Searches; {got}")
        assert self._part is not None
        for record in _records(prediction):
            self._part.write(json.dumps(record, ensure_ascii=False) + "\n")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Merges the parts, in the order in which one process alone would have written them."""
        assert self._part is not None
        self._part.close()
        trainer.strategy.barrier("search_results")
        if trainer.is_global_zero:
            parts = [self._part_of(rank) for rank in range(trainer.world_size)]
            self._write_whole("searches.jsonl", _merged(parts))
            self._write_whole("run.trec", _trec(_merged(parts), self.tag))
            for part in parts:
                part.unlink()
            rank_zero_info(f"results: {self._folder / 'run.trec'} and {self._folder / 'searches.jsonl'}")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leaves no part behind."""
        if self._part is not None:
            self._part.close()
            self._part_of(trainer.global_rank).unlink(missing_ok=True)

    def _part_of(self, rank: int) -> Path:
        return self._folder / f".searches.{rank}.partial"

    def _write_whole(self, name: str, lines: Iterable[str]) -> None:
        """Writes a file that appears only once it is complete."""
        partial = self._folder / f".{name}.partial"
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(lines)
        partial.replace(self._folder / name)


def _records(searches: Searches) -> Iterator[dict[str, Any]]:
    """One plain object per query."""
    rows = zip(searches.document_ids, searches.hits.scores.tolist(), strict=True)
    for query, text, thought, (documents, scores) in zip(
        searches.ids, searches.texts, searches.thoughts, rows, strict=True
    ):
        check_ids([query, *documents], "predict")
        hits = [{"id": document, "score": score} for document, score in zip(documents, scores, strict=True)]
        yield {"id": query, "text": text, "thought": thought, "hits": hits}


def _merged(parts: Sequence[Path]) -> Iterator[str]:
    """Lines of all parts: processes take queries in turn, so their lines are taken in turn."""
    files = [part.open(encoding="utf-8") for part in parts]
    try:
        for lines in zip_longest(*files):
            yield from (line for line in lines if line is not None)
    finally:
        for file in files:
            file.close()


def _trec(lines: Iterable[str], tag: str) -> Iterator[str]:
    """Lines of a TREC run."""
    for line in lines:
        record = json.loads(line)
        yield from trec_lines(record["id"], {hit["id"]: hit["score"] for hit in record["hits"]}, tag)
