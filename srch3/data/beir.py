"""Data sets in BEIR's layout."""

import logging
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from srch3.data.base import RetrievalDataModule
from srch3.data.cache import cached
from srch3.data.checks import with_something_to_find
from srch3.data.corpus import Corpus
from srch3.data.documents_file import read_documents
from srch3.data.lines import read_lines, text_lines
from srch3.data.selection import hold_out
from srch3.data.stored import CorpusWriter, open_corpus
from srch3.data.writing import begin
from srch3.errors import DataError
from srch3.types import Query, Split

log = logging.getLogger(__name__)

_ROOT = "data.init_args.root"
_REMARK = re.compile(r"\s*\([^()]*\)$")
_FILES = ("corpus.jsonl", "queries.jsonl", "qrels/*.tsv", "negatives/*.tsv")


class BeirDataModule(RetrievalDataModule):
    """A folder in BEIR's layout.

    ``corpus.jsonl`` has one ``{"_id", "title", "text"}`` per line (the title may be absent), ``queries.jsonl`` one
    ``{"_id", "text"}``, to which ``"thought"``, the reasoning to learn, and ``"weight"``, the importance in training,
    may be added. ``qrels/{split}.tsv`` has one judgement per line after a header line: query id, document id and an
    integer grade, separated by tabs. Grades of zero and below count as irrelevant; a query without any other is left
    out. ``negatives/{split}.tsv``, where it is there, has one hard negative per line after a header line: query id and
    document id, separated by a tab, the best first. All splits share the corpus.

    Args:
        root: The folder.
        train_split: Name of the judgements to train on.
        val_split: Name of the judgements to validate on. Where there is no such file, part of the training queries is
            held out instead.
        test_split: Name of the judgements to test on; prediction takes their queries too.
        val_fraction: Expected share of the training queries that is held out where there is no validation file.
        title_thoughts: Whether a training query without a thought of its own is to think the title of its first
            relevant document, without a remark in brackets at its end; to be used with ``ColumnThoughts``.
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
        title_thoughts: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = Path(root)
        self.val_fraction = val_fraction
        self.title_thoughts = title_thoughts
        self._names: dict[Split, str] = {
            "train": train_split,
            "val": val_split,
            "test": test_split,
            "predict": test_split,
        }
        self._documents: Corpus | None = None

    def has(self, split: Split) -> bool:
        """Whether the judgements are there; validation can always be held out."""
        return split == "val" or (self.root / self._table("qrels", split)).is_file()

    def load(self, split: Split) -> list[Query]:
        """The judged queries, in the order of ``queries.jsonl``."""
        validated = self.root / self._table("qrels", "val")
        if split not in ("train", "val") or validated.is_file():
            queries = self._read_judged(split)
            return self._to_train_on(queries) if split == "train" else queries
        kept, held = hold_out(self._read_judged("train"), self.val_fraction, "data.init_args.val_fraction")
        if split == "train":
            return self._to_train_on(kept)
        log.warning("no %s: %d of the training queries are held out for validation", validated, len(held))
        return held

    def _to_train_on(self, queries: list[Query]) -> list[Query]:
        queries = with_something_to_find(queries, "train")
        if not self.title_thoughts:
            return queries
        first = {query.id: next(iter(query.relevant)) for query in queries if query.thought is None}
        wanted, titles = set(first.values()), {}
        for line in read_lines(self._file("corpus.jsonl"), _ROOT):
            if line.text("_id") in wanted:
                titles[line.text("_id")] = _REMARK.sub("", line.optional_text("title") or "")
        return [query._replace(thought=titles.get(first.get(query.id, ""), query.thought)) for query in queries]

    def load_corpus(self, split: Split) -> Corpus:
        """The corpus of all splits; a document's text is its title, a space, and its text.

        It is memory-mapped from a cache: the file is read once, and again when it has changed.
        """
        if self._documents is None:
            folder = cached("beir", [self._file("corpus.jsonl")], None, self._write_corpus)
            self._documents = open_corpus(folder)
        return self._documents

    def _write_corpus(self, folder: Path) -> None:
        with CorpusWriter(folder) as documents:
            for document_id, text in read_documents(self._file("corpus.jsonl"), _ROOT):
                documents.add(document_id, text)
            if not len(documents):
                raise DataError(f"{_ROOT}: expected at least one document in {self.root / 'corpus.jsonl'}; got none")

    def write_negatives(self, folder: Path, negatives: Mapping[str, Sequence[str]]) -> str:
        """Writes ``negatives/{train_split}.tsv``, and copies of the other files."""
        begin(folder, negatives, self._asked.keys(), self.corpus("train"))
        lists = self._read_negatives("train") | {query_id: list(found) for query_id, found in negatives.items()}
        for path in chain.from_iterable(map(self.root.glob, _FILES)):
            copy = folder / path.relative_to(self.root)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        written = folder / self._table("negatives", "train")
        written.unlink(missing_ok=True)
        written.parent.mkdir(exist_ok=True)
        with written.open("w", encoding="utf-8") as file:
            file.write("query-id\tcorpus-id\n")
            for query_id, document_ids in lists.items():
                file.writelines(f"{query_id}\t{document_id}\n" for document_id in document_ids)
        return f"--data.init_args.root {shlex.quote(str(folder))}"

    def _read_judged(self, split: Split) -> list[Query]:
        grades: dict[str, dict[str, int]] = {}
        for place, (query_id, document_id, grade) in self._rows("qrels", split, ("query id", "document id", "grade")):
            judged = grades.setdefault(query_id, {})
            if _integer(grade, place) > 0:
                judged[document_id] = int(grade)
        negatives = self._read_negatives(split)
        return [
            query._replace(relevant=grades[query_id], negatives=tuple(negatives.get(query_id, ())))
            for query_id, query in self._asked.items()
            if query_id in grades
        ]

    def _read_negatives(self, split: Split) -> dict[str, list[str]]:
        negatives: dict[str, list[str]] = {}
        if (self.root / self._table("negatives", split)).is_file():
            for _, (query_id, document_id) in self._rows("negatives", split, ("query id", "document id")):
                negatives.setdefault(query_id, []).append(document_id)
        return negatives

    def _rows(self, kind: str, split: Split, columns: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
        """The rows of a table, each with its place; the first column is the id of a query."""
        for place, line in islice(text_lines(self._file(self._table(kind, split)), _ROOT), 1, None):
            if line.strip():
                row = line.rstrip("\r\n").split("\t")
                if len(row) != len(columns):
                    raise DataError(f"{place}: expected {', '.join(columns)}, separated by tabs; got {line.strip()!r}")
                if row[0] not in self._asked:
                    raise DataError(
                        f"{place}: expected the id of a query in queries.jsonl; got {row[0]!r};"
                        " add the query or remove the line"
                    )
                yield place, row

    @cached_property
    def _asked(self) -> dict[str, Query]:
        """All queries, not judged yet."""
        queries: dict[str, Query] = {}
        for line in read_lines(self._file("queries.jsonl"), _ROOT):
            query_id, weight = line.text("_id"), line.optional_number("weight")
            if query_id in queries:
                raise DataError(f"{line.place}: expected unique query ids; got {query_id!r} again")
            thought = line.optional_text("thought")
            queries[query_id] = Query(query_id, line.text("text"), {}, (), thought, 1.0 if weight is None else weight)
        return queries

    def _table(self, kind: str, split: Split) -> str:
        return f"{kind}/{self._names[split]}.tsv"

    def _file(self, name: str) -> Path:
        if not self.root.is_dir():
            raise DataError(f"{_ROOT}: expected a folder at {self.root}; got none; check the path")
        return self.root / name


def _integer(grade: str, place: str) -> int:
    try:
        return int(grade)
    except ValueError:
        raise DataError(f"{place}: expected an integer grade; got {grade!r}") from None
