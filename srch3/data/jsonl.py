"""Data sets in files of one JSON object per line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from srch3.data.examples import Example, ExampleDataModule
from srch3.data.lines import read_lines
from srch3.types import Split


class JsonlDataModule(ExampleDataModule):
    """Files of one query per line, with the texts of its documents.

    A line is ``{"query": str, "positives": [str], "negatives": [str], "thought": str, "id": str}``, of which negatives,
    thought and id may be absent. The corpus, shared by all splits, is the union of all texts and of the corpus file;
    equal texts are one document. Lines with the same query are one query with several relevant documents.

    Args:
        train: File of training queries.
        val: File of validation queries; by default part of the training queries is held out.
        test: File of test queries; prediction takes them too.
        corpus: File of more documents to search, one ``{"_id": str, "title": str, "text": str}`` per line; the title
            may be absent.
        val_fraction: Expected share of the training queries that is held out where no validation file is given.
        **kwargs: What ``RetrievalDataModule`` takes.

    Raises:
        ConfigError: Where a number is out of range.
        DataError: Where a file is absent, broken or inconsistent.
    """

    test_setting: ClassVar[str] = "data.init_args.test"

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        corpus: str | None = None,
        val_fraction: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(val_fraction, **kwargs)
        self._files: dict[Split, str | None] = {"train": train, "val": val, "test": test}
        self._corpus_file = corpus

    def given(self, split: Split) -> bool:
        """Whether a file is named for the split."""
        return self._files[split] is not None

    def examples(self, split: Split) -> Iterator[Example]:
        """Reads the file of a split."""
        path = self._files[split]
        assert path is not None
        for line in read_lines(Path(path), f"data.init_args.{split}"):
            yield Example(
                line.text("query"),
                line.texts("positives"),
                line.texts("negatives"),
                line.optional_text("thought"),
                line.optional_text("id"),
            )

    def documents(self) -> Iterator[tuple[str, str]]:
        """Reads the corpus file, if one is named."""
        if self._corpus_file is not None:
            for line in read_lines(Path(self._corpus_file), "data.init_args.corpus"):
                yield line.text("_id"), f"{line.optional_text('title') or ''} {line.text('text')}".strip()
