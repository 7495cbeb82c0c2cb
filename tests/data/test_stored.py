import io
import pickle
import tracemalloc
from pathlib import Path

import pytest
from rich.console import Console

from srch3.data.corpus import Corpus
from srch3.data.loaders import TrainBatchBuilder
from srch3.data.stored import CorpusWriter, open_corpus
from srch3.data.thoughts import NoThoughts
from srch3.errors import DataError
from srch3.types import Query


def stored(folder: Path, count: int) -> Corpus:
    folder.mkdir()
    with CorpusWriter(folder) as writer:
        for number in range(count):
            writer.add(f"d{number}", f"text of {number}")
        assert len(writer) == count
    return open_corpus(folder)


def test_is_the_same_as_a_corpus_in_memory(tmp_path: Path) -> None:
    corpus = stored(tmp_path / "c", 500)
    listed = Corpus([f"d{number}" for number in range(500)], [f"text of {number}" for number in range(500)])
    assert len(corpus) == len(listed)
    assert list(corpus.ids) == listed.ids
    assert list(corpus.texts) == listed.texts
    assert [corpus.row(document_id) for document_id in listed.ids] == list(range(500))
    assert "d499" in corpus
    assert "d500" not in corpus
    assert 3 not in corpus
    with pytest.raises(DataError, match="one of 500 documents; got 'd500'"):
        corpus.row("d500")


def test_refuses_what_cannot_be_searched(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least one document; got none"):
        stored(tmp_path / "none", 0)
    writer = CorpusWriter(tmp_path)
    for number in (0, 1, 2, 1):
        writer.add(f"d{number}", "")
    with pytest.raises(DataError, match="expected unique document ids; got 'd1' twice"):
        writer.__exit__(None, None, None)


def test_another_process_gets_paths_and_no_documents(tmp_path: Path) -> None:
    sizes = []
    for count in (10, 5000):
        corpus = stored(tmp_path / f"{count:05}", count)
        queries = [Query("q", "query", {"d1": 1, "d2": 1}, negatives=("d3",))]
        builder = TrainBatchBuilder(queries, corpus, NoThoughts())
        sizes.append(len(pickle.dumps(corpus)) + len(pickle.dumps(builder)))
        again = pickle.loads(pickle.dumps(corpus))
        assert list(again.texts) == list(corpus.texts)
        assert [again.row(f"d{number}") for number in range(count)] == list(range(count))
        assert pickle.loads(pickle.dumps(builder))._corpus.texts[7] == "text of 7"
    assert sizes[0] == sizes[1] < 5000


def test_opening_makes_no_object_per_document(tmp_path: Path) -> None:
    stored(tmp_path / "c", 20_000)
    tracemalloc.start()
    try:
        corpus = open_corpus(tmp_path / "c")
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(corpus) == 20_000
    assert used < 100_000


def test_a_line_shows_how_far_a_long_preparation_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("srch3.data.stored.get_console", lambda: Console(file=screen, force_terminal=True))
    stored(tmp_path / "short", 100)
    assert not screen.getvalue()
    monkeypatch.setattr("srch3.data.stored._BETWEEN_TICKS", 50)
    monkeypatch.setattr("srch3.data.stored._PATIENCE", 0.0)
    stored(tmp_path / "long", 100)
    assert "preparing the corpus: 100 documents" in screen.getvalue()
