"""Data sets in files of one JSON object per line."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from srch3.data.examples import Example, ExampleDataModule
from srch3.data.lines import read_lines
from srch3.data.writing import begin, write_json_lines
from srch3.types import Query, Split


class JsonlDataModule(ExampleDataModule):
    """Files of one query per line, with the texts of its documents.

    A line is ``{"query": str, "positives": [str], "negatives": [str], "thought": str, "id": str, "weight": float}``, of
    which all but query and positives may be absent; the weight is the query's importance in training. The corpus,
    shared by all splits, holds the documents of the corpus file and every other text once; a text that is in the file
    is the first document there that has it. Lines with the same query are one query with several relevant documents.

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
            weight = line.optional_number("weight")
            yield Example(
                line.text("query"),
                line.required_texts("positives"),
                line.texts("negatives"),
                line.optional_text("thought"),
                line.optional_text("id"),
                1.0 if weight is None else weight,
            )

    def sources(self) -> tuple[list[str], object]:
        """The files, and what each of them is."""
        files = [*self._files.items(), ("corpus", self._corpus_file)]
        named = [(setting, path) for setting, path in files if path is not None]
        return [path for _, path in named], [setting for setting, _ in named]

    def write_negatives(self, folder: Path, negatives: Mapping[str, Sequence[str]]) -> str:
        """Writes ``train.jsonl``, a line per query, and all documents as ``corpus.jsonl``, so that none gets lost."""
        corpus = self.corpus("train")
        queries = {query.id: query for query in self._queries_in("train")}
        begin(folder, negatives, queries.keys(), corpus)

        def texts(document_ids: Iterable[str]) -> list[str]:
            return [corpus.texts[corpus.row(document_id)] for document_id in document_ids]

        def record(query: Query) -> dict[str, Any]:
            found = negatives.get(query.id, query.negatives)
            named = {"id": query.id, "query": query.text, "thought": query.thought, "weight": query.weight}
            return named | {"positives": texts(query.relevant), "negatives": texts(found)}

        documents = zip(corpus.ids, corpus.texts, strict=True)
        write_json_lines(folder / "corpus.jsonl", ({"_id": name, "text": text} for name, text in documents))
        write_json_lines(folder / "train.jsonl", map(record, queries.values()))
        options = {"train": folder / "train.jsonl", "corpus": folder / "corpus.jsonl"}
        return " ".join(f"--data.init_args.{name} {shlex.quote(str(path))}" for name, path in options.items())

    def documents(self) -> Iterator[tuple[str, str]]:
        """Reads the corpus file, if one is named."""
        if self._corpus_file is not None:
            for line in read_lines(Path(self._corpus_file), "data.init_args.corpus"):
                title = line.optional_text("title")
                yield line.text("_id"), f"{title} {line.text('text')}" if title else line.text("text")
