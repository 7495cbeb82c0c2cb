"""Data sets in BEIR's layout."""

import logging
from pathlib import Path
from typing import Any

from srch3.data.base import RetrievalDataModule
from srch3.data.corpus import Corpus
from srch3.data.lines import read_lines, text_lines
from srch3.data.selection import hold_out
from srch3.errors import DataError
from srch3.types import Query, Split

log = logging.getLogger(__name__)

_ROOT = "data.init_args.root"


class BeirDataModule(RetrievalDataModule):
    """A folder in BEIR's layout.

    ``corpus.jsonl`` has one ``{"_id", "title", "text"}`` per line (the title may be absent), ``queries.jsonl`` one
    ``{"_id", "text"}``, and ``qrels/{split}.tsv`` one judgement per line after a header line: query id, document id and
    an integer grade, separated by tabs. Grades of zero and below count as irrelevant. All splits share the corpus.

    Args:
        root: The folder.
        train_split: Name of the judgements to train on.
        val_split: Name of the judgements to validate on. Where there is no such file, part of the training queries is
            held out instead.
        test_split: Name of the judgements to test on; prediction takes their queries too.
        val_fraction: Expected share of the training queries that is held out where there is no validation file.
        **kwargs: What ``RetrievalDataModule`` takes.

    Raises:
        ConfigError: Where a number is out of range.
        DataError: Where the folder or a file of it is absent, broken or inconsistent.
    """

    def __init__(
        self,
        root: str,
        train_split: str = "train",
        val_split: str = "dev",
        test_split: str = "test",
        val_fraction: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = Path(root)
        self.val_fraction = val_fraction
        self._names: dict[Split, str] = {
            "train": train_split,
            "val": val_split,
            "test": test_split,
            "predict": test_split,
        }
        self._documents: Corpus | None = None
        self._texts: dict[str, str] | None = None

    def has(self, split: Split) -> bool:
        """Whether the judgements are there; validation can always be held out."""
        return split == "val" or self._qrels(split).is_file()

    def load(self, split: Split) -> list[Query]:
        """The judged queries, in the order of ``queries.jsonl``."""
        if split not in ("train", "val") or self._qrels("val").is_file():
            return self._read_judged(split)
        kept, held = hold_out(self._read_judged("train"), self.val_fraction, "data.init_args.val_fraction")
        if split == "train":
            return kept
        log.warning("no %s: %d of the training queries are held out for validation", self._qrels("val"), len(held))
        return held

    def load_corpus(self, split: Split) -> Corpus:
        """The corpus of all splits; a document's text is its title, a space, and its text."""
        if self._documents is None:
            ids, texts = [], []
            for line in read_lines(self._file("corpus.jsonl"), _ROOT):
                ids.append(line.text("_id"))
                texts.append(f"{line.optional_text('title') or ''} {line.text('text')}".strip())
            if not ids:
                raise DataError(f"{_ROOT}: expected at least one document in {self.root / 'corpus.jsonl'}; got none")
            self._documents = Corpus(ids, texts)
        return self._documents

    def _read_judged(self, split: Split) -> list[Query]:
        grades: dict[str, dict[str, int]] = {}
        texts = self._query_texts()
        for place, line in list(text_lines(self._file(f"qrels/{self._names[split]}.tsv"), _ROOT))[1:]:
            if line.strip():
                query_id, document_id, grade = _judgement(place, line)
                if query_id not in texts:
                    raise DataError(
                        f"{place}: expected the id of a query in queries.jsonl; got {query_id!r};"
                        " add the query or remove the judgement"
                    )
                judged = grades.setdefault(query_id, {})
                if grade > 0:
                    judged[document_id] = grade
        return [Query(query_id, text, grades[query_id]) for query_id, text in texts.items() if query_id in grades]

    def _query_texts(self) -> dict[str, str]:
        if self._texts is None:
            texts: dict[str, str] = {}
            for line in read_lines(self._file("queries.jsonl"), _ROOT):
                query_id = line.text("_id")
                if query_id in texts:
                    raise DataError(f"{line.place}: expected unique query ids; got {query_id!r} again")
                texts[query_id] = line.text("text")
            self._texts = texts
        return self._texts

    def _qrels(self, split: Split) -> Path:
        return self.root / "qrels" / f"{self._names[split]}.tsv"

    def _file(self, name: str) -> Path:
        if not self.root.is_dir():
            raise DataError(f"{_ROOT}: expected a folder at {self.root}; got none; check the path")
        return self.root / name


def _judgement(place: str, line: str) -> tuple[str, str, int]:
    columns = line.rstrip("\r\n").split("\t")
    if len(columns) != 3:
        raise DataError(f"{place}: expected query id, document id and grade, separated by tabs; got {line.strip()!r}")
    query_id, document_id, grade = columns
    try:
        return query_id, document_id, int(grade)
    except ValueError:
        raise DataError(f"{place}: expected an integer grade; got {grade!r}") from None
