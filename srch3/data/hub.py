"""Data sets of the Hugging Face ``datasets`` library."""

import shlex
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from srch3.data.corpus import Corpus
from srch3.data.examples import Example, ExampleDataModule, text_id
from srch3.data.writing import begin
from srch3.errors import DataError
from srch3.types import Split

_CHUNK = 1000
_WEIGHT = "weight_column"


class HubDataModule(ExampleDataModule):
    """A data set on the Hugging Face hub, or a folder that ``save_to_disk`` wrote; one query per row.

    No code of a data set is ever run. The corpus, shared by all splits, is the union of all texts; equal texts are one
    document. Rows with the same query are one query with several relevant documents.

    Args:
        path: Name on the hub, or a folder.
        name: Which configuration of the data set, where it has several.
        train_split: Name of the split to train on. A folder that holds a single table is its training split.
        val_split: Name of the split to validate on. Where there is none, part of the training queries is held out.
        test_split: Name of the split to test on; prediction takes its queries too.
        query_column: Column of query texts.
        positive_column: Column of relevant texts: one, or a list of them, per row.
        negative_column: Column of texts that look relevant and are not: one, or a list of them, per row.
        thought_column: Column of thoughts to learn.
        weight_column: Column of numbers, the importance of the query in training.
        corpus_split: Name of a split of more documents to search, with columns ``id`` and ``text``.
        val_fraction: Expected share of the training queries that is held out where there is no validation split.
        **kwargs: What ``RetrievalDataModule`` takes.

    Raises:
        ConfigError: Where a number is out of range.
        DataError: Where the data set, a split or a column is absent, or a value is not text.
    """

    test_setting: ClassVar[str] = "data.init_args.test_split"

    def __init__(
        self,
        path: str,
        name: str | None = None,
        train_split: str = "train",
        val_split: str = "validation",
        test_split: str = "test",
        query_column: str = "query",
        positive_column: str = "positive",
        negative_column: str | None = None,
        thought_column: str | None = None,
        weight_column: str | None = None,
        corpus_split: str | None = None,
        val_fraction: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(val_fraction, **kwargs)
        self.path = path
        self.config = name
        self._names: dict[Split, str] = {"train": train_split, "val": val_split, "test": test_split}
        self._columns: dict[str, str | None] = {
            "query_column": query_column,
            "positive_column": positive_column,
            "negative_column": negative_column,
            "thought_column": thought_column,
            _WEIGHT: weight_column,
        }
        self._corpus_split = corpus_split
        self._tables: Mapping[str, Any] | None = None

    def given(self, split: Split) -> bool:
        """Whether the data set has the split; it must have the one to train on."""
        tables = self._loaded()
        if split == "train" and self._names[split] not in tables:
            raise DataError(
                f"data.init_args.train_split: expected one of {sorted(tables)}, the splits of {self.path};"
                f" got {self._names[split]!r}"
            )
        return self._names[split] in tables

    def examples(self, split: Split) -> Iterator[Example]:
        """Reads the rows of a split."""
        table = self._loaded()[self._names[split]]
        return examples_of(table, self._named_columns(table, split), f"{self.path}, {self._names[split]}")

    def documents(self) -> Iterator[tuple[str, str]]:
        """Reads the split of documents, if one is named."""
        if self._corpus_split is None:
            return
        tables = self._loaded()
        if self._corpus_split not in tables or not {"id", "text"} <= set(tables[self._corpus_split].column_names):
            raise DataError(
                f"data.init_args.corpus_split: expected one of {sorted(tables)}, the splits of {self.path}, with"
                f" columns id and text; got {self._corpus_split!r}"
            )
        for row in _rows(tables[self._corpus_split], ["id", "text"]):
            yield row["id"], row["text"]

    def write_negatives(self, folder: Path, negatives: Mapping[str, Sequence[str]]) -> str:
        """Writes all splits, and all documents as one more, so that none gets lost; each row has its query's list."""
        import datasets

        corpus = self.corpus("train")
        lists = {query.id: negatives.get(query.id, query.negatives) for query in self._queries_in("train")}
        begin(folder, negatives, lists.keys(), corpus)
        column, split = self._columns["negative_column"] or "negatives", self._corpus_split or "corpus"

        def negatives_of(query: Any) -> dict[str, list[str]]:
            document_ids = lists[text_id(_texts(query, "query", self.path)[0])]
            return {column: [corpus.texts[corpus.row(document_id)] for document_id in document_ids]}

        with tempfile.TemporaryDirectory(dir=folder) as cache:
            tables, train = dict(self._loaded()), self._names["train"]
            tables[train] = _with_column(tables[train], column, negatives_of, self._columns["query_column"], cache)
            tables[split] = _documents_of(corpus, cache)
            datasets.DatasetDict(tables).save_to_disk(str(folder))
        options = {"path": folder, "negative_column": column, "corpus_split": split}
        return " ".join(f"--data.init_args.{name} {shlex.quote(str(value))}" for name, value in options.items())

    def _named_columns(self, table: Any, split: Split = "train") -> dict[str, str]:
        """The columns that are set and there, by the setting; those to train with need not be in other splits."""
        present = table.column_names or list(next(iter(table), {}))
        columns = {setting: column for setting, column in self._columns.items() if column is not None}
        for setting, column in columns.items():
            if column not in present and (split == "train" or setting in ("query_column", "positive_column")):
                raise DataError(
                    f"data.init_args.{setting}: expected one of {present}, the columns of {self.path}; got {column!r}"
                )
        return {setting: column for setting, column in columns.items() if column in present}

    def sources(self) -> tuple[list[str], object]:
        """The files of the tables, and what is read of them; ``datasets`` gives each table a fingerprint as well."""
        splits: tuple[Split, ...] = ("train", "val", "test")
        names = [self._names[split] for split in splits if self.given(split)]
        names += [name for name in self._loaded() if name == self._corpus_split]
        tables = [self._loaded()[name] for name in names]
        columns = [self._columns["positive_column"], self._columns["negative_column"], self._corpus_split]
        files = [file["filename"] for table in tables for file in table.cache_files]
        return files, [*columns, *(table._fingerprint for table in tables)]  # noqa: SLF001 (it has no public name)

    def _loaded(self) -> Mapping[str, Any]:
        if self._tables is None:
            tables = load_tables(self.path, self.config)
            self._tables = tables if isinstance(tables, Mapping) else {self._names["train"]: tables}
        return self._tables


def examples_of(table: Any, columns: Mapping[str, str], place: str) -> Iterator[Example]:
    """One example per row.

    Args:
        table: A data set of the ``datasets`` library, memory-mapped or streamed.
        columns: Columns by the settings that name them.
        place: What the rows are counted in, for errors.

    Raises:
        DataError: Where a value is not text, or a row has no query.
    """
    for number, row in enumerate(_rows(table, list(columns.values()))):
        here = f"{place}, row {number}"
        weight = _number(row[columns[_WEIGHT]], columns[_WEIGHT], here) if _WEIGHT in columns else 1.0
        values = {
            setting: _texts(row[column], column, here) for setting, column in columns.items() if setting != _WEIGHT
        }
        if not values["query_column"]:
            raise DataError(f"{here}: expected a query in column {columns['query_column']!r}; got none")
        yield Example(
            values["query_column"][0],
            values["positive_column"],
            values.get("negative_column", []),
            next(iter(values.get("thought_column", [])), None),
            weight=weight,
        )


def _rows(table: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows by way of Arrow, many times faster than one by one."""
    chunks = table.select_columns(columns).with_format("arrow").iter(_CHUNK)
    return chain.from_iterable(chunk.to_pylist() for chunk in chunks)


def load_tables(path: str, config: str | None, **options: Any) -> Any:
    """All splits of a data set.

    Args:
        path: Name on the hub, or a folder.
        config: Which configuration of the data set.
        **options: Of ``datasets.load_dataset``; without any, ``path`` may be a folder of ``save_to_disk`` as well.

    Raises:
        DataError: Where there is no such data set.
    """
    import datasets  # takes a second, so that only those who need it pay

    try:
        if not options and any((Path(path) / written).is_file() for written in ("dataset_dict.json", "state.json")):
            return datasets.load_from_disk(path)
        return datasets.load_dataset(path, config, **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"data.init_args.path: expected a data set on the hub or a folder of save_to_disk; got {path!r}: {reason}"
        ) from error


def _with_column(
    table: Any, name: str, texts: Callable[[Any], dict[str, list[str]]], asked: str | None, cache: str
) -> Any:
    """A table with a column of lists of texts, each a function of another column."""
    import datasets

    features = datasets.Features(table.features | {name: datasets.List(datasets.Value("string"))})
    path, fingerprint = str(Path(cache) / "train.arrow"), uuid.uuid4().hex
    return table.map(texts, input_columns=asked, features=features, cache_file_name=path, new_fingerprint=fingerprint)


def _documents_of(corpus: Corpus, cache: str) -> Any:
    """All documents as a table."""
    import datasets

    def rows() -> Iterator[dict[str, str]]:
        for document_id, text in zip(corpus.ids, corpus.texts, strict=True):
            yield {"id": document_id, "text": text}

    return datasets.Dataset.from_generator(rows, cache_dir=cache, fingerprint=uuid.uuid4().hex)


def _number(value: Any, column: str, place: str) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{place}: expected a number in column {column!r}; got {value!r}")
    return float(value)


def _texts(value: Any, column: str, place: str) -> list[str]:
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{place}: expected a string or a list of strings in column {column!r}; got {value!r}")
    return texts
