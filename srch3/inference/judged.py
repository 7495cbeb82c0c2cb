"""Judged queries, and the documents they are searched in, of a folder in BEIR's layout."""

import logging
from pathlib import Path

from srch3.data import BeirDataModule, Corpus, documents_file
from srch3.errors import DataError
from srch3.metrics.trec_files import Qrels
from srch3.types import CorpusLike

log = logging.getLogger(__name__)


def judgements_of(folder: Path, split: str) -> Path:
    """The file with the judgements of a split.

    Raises:
        DataError: There is no such folder or file.
    """
    table = folder / "qrels" / f"{split}.tsv"
    if not folder.is_dir():
        raise DataError(f"data: expected a folder in BEIR's layout at {folder}; got none; check the path")
    if not table.is_file():
        found = ", ".join(sorted(path.stem for path in table.parent.glob("*.tsv"))) or "none"
        raise DataError(f"split: expected judgements at {table}; got none; the splits of the folder: {found}")
    return table


def read_queries(folder: Path, qrels: Qrels) -> dict[str, str]:
    """The texts of the judged queries, by id, in the order of the judgements.

    Raises:
        DataError: ``queries.jsonl`` is absent or broken, or lacks a judged query.
    """
    path = folder / "queries.jsonl"
    texts = dict(documents_file.read_queries(path, "data"))
    absent = next((query for query in qrels if query not in texts), None)
    if absent is not None:
        raise DataError(f"{path}: expected every judged query; got none with the id {absent!r}; add it")
    return {query: texts[query] for query in qrels}


def read_documents(folder: Path) -> Corpus:
    """The documents of the folder, memory-mapped.

    Raises:
        DataError: ``corpus.jsonl`` is absent, empty or broken.
    """
    if not (folder / "corpus.jsonl").is_file():
        raise DataError(f"data: expected a file at {folder / 'corpus.jsonl'}; got none; check the path")
    return BeirDataModule(str(folder)).load_corpus("test")


def warn_of_absent(qrels: Qrels, corpus: CorpusLike) -> None:
    """Says how many relevant documents cannot be found, since they are not in what is searched."""
    known = set(corpus.ids)
    relevant = [name for judged in qrels.values() for name, grade in judged.items() if grade > 0]
    absent = [name for name in relevant if name not in known]
    if absent:
        log.warning(
            "%d of %d judgements are about relevant documents that are not searched, such as %r: they count as not "
            "found",
            len(absent),
            len(relevant),
            absent[0],
        )
