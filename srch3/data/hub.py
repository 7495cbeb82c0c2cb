"""Data sets of the Hugging Face ``datasets`` library."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from srch3.data.examples import Example, ExampleDataModule
from srch3.errors import DataError
from srch3.types import Split


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
        }
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
        columns = {setting: column for setting, column in self._columns.items() if column is not None}
        for setting, column in columns.items():
            if column not in table.column_names:
                raise DataError(
                    f"data.init_args.{setting}: expected one of {table.column_names}, the columns of {self.path};"
                    f" got {column!r}"
                )
        for number, row in enumerate(table.select_columns(list(columns.values()))):
            place = f"{self.path}, {self._names[split]}, row {number}"
            values = {setting: _texts(row[column], column, place) for setting, column in columns.items()}
            if not values["query_column"]:
                raise DataError(f"{place}: expected a query in column {columns['query_column']!r}; got none")
            yield Example(
                values["query_column"][0],
                values["positive_column"],
                values.get("negative_column", []),
                next(iter(values.get("thought_column", [])), None),
            )

    def _loaded(self) -> Mapping[str, Any]:
        if self._tables is None:
            tables = _load(self.path, self.config)
            self._tables = tables if isinstance(tables, Mapping) else {self._names["train"]: tables}
        return self._tables


def _load(path: str, config: str | None) -> Any:
    """Loads all splits; ``datasets`` takes a second to import, so that only those who need it pay."""
    import datasets

    try:
        if any((Path(path) / written).is_file() for written in ("dataset_dict.json", "state.json")):
            return datasets.load_from_disk(path)
        return datasets.load_dataset(path, config)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"data.init_args.path: expected a data set on the hub or a folder of save_to_disk; got {path!r}: {reason}"
        ) from error


def _texts(value: Any, column: str, place: str) -> list[str]:
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{place}: expected a string or a list of strings in column {column!r}; got {value!r}")
    return texts
