"""What the model thinks and finds, for eyes rather than for averages."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from rich import get_console
from rich.table import Table
from rich.text import Text

from srch3.errors import ConfigError
from srch3.metrics import query_scores
from srch3.types import CorpusLike, Hits, Searches

_SNIPPET = 60


class ThoughtRow(NamedTuple):
    """One query of the table.

    Attributes:
        query: Its text.
        thought: What was thought before it was embedded.
        hits: The best hits, one per line: an asterisk where it is relevant, cosine, id, beginning of the text.
        first_relevant: Rank of the first relevant hit, from 1 on; none where there is none.
        ndcg: nDCG@10.
    """

    query: str
    thought: str
    hits: str
    first_relevant: int | None
    ndcg: float


def thought_rows(
    searches: Searches, relevant: Sequence[Mapping[str, int]], corpus: CorpusLike, hits: int
) -> list[ThoughtRow]:
    """One row per query.

    Args:
        searches: What the queries thought and found.
        relevant: Document id to grade of each query.
        corpus: What was searched.
        hits: How many of them to show.
    """
    scores = query_scores(searches.hits, relevant, corpus)["ndcg@10"].tolist()
    rows = []
    for number, (judged, found) in enumerate(zip(relevant, searches.document_ids, strict=True)):
        ranks = [rank for rank, document_id in enumerate(found, start=1) if document_id in judged]
        places = zip(searches.hits.rows[number].tolist(), searches.hits.scores[number].tolist(), found, strict=True)
        shown = [
            f"{'*' if document_id in judged else ' '} {score:.2f} {document_id}: {_one_line(corpus.texts[row])}"
            for row, score, document_id in list(places)[:hits]
        ]
        rank = ranks[0] if ranks else None
        query, thought = searches.texts[number], searches.thoughts[number]
        rows.append(ThoughtRow(query, thought, "\n".join(shown), rank, scores[number]))
    return rows


class ThoughtTable(L.Callback):
    """Shows, at every validation, what some queries thought and found, in the first of the model's modes.

    The queries are the first ones of the first process, always the same. The table goes to the console, and to
    Weights & Biases as ``val/thoughts``.

    Args:
        rows: Queries.
        hits: Documents of each.
    """

    def __init__(self, rows: int = 5, hits: int = 3) -> None:
        for name, value in (("rows", rows), ("hits", hits)):
            if value < 1:
                raise ConfigError(f"trainer.callbacks: ThoughtTable.{name}: expected at least 1, got {value}")
        self.rows = rows
        self.hits = hits
        self._rows: list[ThoughtRow] = []

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins a table."""
        self._rows = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Takes the queries that are still wanted.

        Args:
            trainer: Only its first process shows anything.
            pl_module: Its environment has the documents.
            outputs: What the queries found.
            batch: The queries.
            batch_idx: Not used.
            dataloader_idx: Not used.

        Raises:
            ConfigError: The model's validation does not return searches.
        """
        if not isinstance(outputs, Searches):
            raise ConfigError(
                "trainer.callbacks: ThoughtTable expects a model whose validation_step returns Searches, such as "
                f"RLModule; got {type(pl_module).__name__}; take it out"
            )
        wanted = self.rows - len(self._rows)
        if wanted > 0 and trainer.is_global_zero and not trainer.sanity_checking:
            model: Any = pl_module
            corpus = model.required_environment().corpus("val")
            self._rows += thought_rows(_first(outputs, wanted), batch.relevant[:wanted], corpus, self.hits)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Shows the table."""
        if not self._rows:
            return
        get_console().print(_table(self._rows, trainer.global_step))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                data = [list(row) for row in self._rows]
                logger.log_table("val/thoughts", list(ThoughtRow._fields), data, step=max(0, trainer.global_step - 1))


def _table(rows: list[ThoughtRow], step: int) -> Table:
    table = Table(title=f"Thoughts after {step} steps", show_lines=True)
    for heading in ("query", "thought", "hits (* relevant)"):
        table.add_column(heading, overflow="fold")
    table.add_column("first", justify="right")
    table.add_column("ndcg@10", justify="right")
    for row in rows:
        cells = (row.query, row.thought, row.hits, str(row.first_relevant or "none"), f"{row.ndcg:.3f}")
        table.add_row(*map(Text, cells))
    return table


def _first(searches: Searches, count: int) -> Searches:
    hits = Hits(searches.hits.rows[:count], searches.hits.scores[:count])
    ids, texts, thoughts, _, document_ids = searches
    return Searches(ids[:count], texts[:count], thoughts[:count], hits, document_ids[:count])


def _one_line(text: str) -> str:
    line = " ".join(text[: 4 * _SNIPPET].split())
    return line if len(line) <= _SNIPPET else f"{line[: _SNIPPET - 1]}…"
