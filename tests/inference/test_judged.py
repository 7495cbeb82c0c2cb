import logging
from pathlib import Path

import pytest

from srch3.data import Corpus
from srch3.errors import DataError
from srch3.inference.judged import judgements_of, read_documents, read_queries, warn_of_absent
from tests.runs import make_beir_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_beir_folder(tmp_path / "beir", documents=4)


def test_a_split_without_judgements_is_refused_with_the_splits_that_have_some(folder: Path) -> None:
    assert judgements_of(folder, "dev") == folder / "qrels" / "dev.tsv"
    with pytest.raises(DataError, match=r"split: expected .*tests.tsv; got none; .* of the folder: dev, test, train"):
        judgements_of(folder, "tests")
    with pytest.raises(DataError, match=r"data: expected a folder in BEIR's layout at .*none; got none"):
        judgements_of(folder / "none", "test")


def test_only_judged_queries_are_read_in_the_order_of_the_judgements(folder: Path) -> None:
    assert list(read_queries(folder, {"test2": {"d2": 1}, "test0": {"d1": 0}})) == ["test2", "test0"]
    with pytest.raises(DataError, match=r"queries.jsonl: expected every judged query; got none with the id 'test9'"):
        read_queries(folder, {"test9": {"d2": 1}})


def test_documents_are_title_and_text(folder: Path) -> None:
    corpus = read_documents(folder)
    assert list(corpus.ids) == ["d0", "d1", "d2", "d3"]
    assert [len(text.split()) for text in corpus.texts] == [5, 5, 5, 5]
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(DataError, match=r"data: expected a file at .*corpus.jsonl; got none"):
        read_documents(folder)


def test_relevant_documents_that_are_not_searched_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    corpus = Corpus(["a", "b"], ["x", "y"])
    warn_of_absent({"q": {"a": 1, "gone": 0}}, corpus)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        warn_of_absent({"q": {"a": 1, "gone": 2}, "r": {"lost": 1}}, corpus)
    assert "2 of 3 judgements are about relevant documents that are not searched, such as 'gone'" in caplog.text
