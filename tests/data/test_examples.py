import random
from pathlib import Path

import pytest

from srch3.data.examples import DocumentPool, Example, queries_of, text_id, write_pool
from srch3.errors import DataError


def test_each_text_is_one_document_in_the_order_of_coming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srch3.data.lookup._LATEST", 50)
    monkeypatch.setattr("srch3.data.columns._ROWS", 30)
    texts = [f"text {number}" for number in random.Random(0).choices(range(400), k=2000)]
    write_pool(tmp_path, [], texts)
    pool = DocumentPool(tmp_path)
    once = list(dict.fromkeys(texts))
    assert list(pool.corpus.texts) == once
    assert list(pool.corpus.ids) == [text_id(text) for text in once] == [pool.id_of(text) for text in once]
    assert not (tmp_path / "by_text.npy").exists()


def test_documents_keep_their_ids_and_the_first_stands_for_its_text(tmp_path: Path) -> None:
    write_pool(tmp_path, [("x", "A"), ("y", "B"), ("z", "A")], ["C", "A", "B", "C", ""])
    pool = DocumentPool(tmp_path)
    assert list(pool.corpus.ids) == ["x", "y", "z", text_id("C"), text_id("")]
    assert list(pool.corpus.texts) == ["A", "B", "A", "C", ""]
    assert [pool.id_of(text) for text in "ABC"] == ["x", "y", text_id("C")]


def test_an_id_that_a_text_would_get_is_taken(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"got '{text_id('A')}' twice"):
        write_pool(tmp_path, [(text_id("A"), "B")], ["A"])


def test_nothing_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one document; got none"):
        write_pool(tmp_path, [], [])


def test_examples_of_one_query_are_merged() -> None:
    examples = [Example("q", ["A"], ["B"]), Example("r", ["A"], []), Example("q", ["C", "A"], ["D", "B"], "why")]
    query, other = queries_of(examples, str.lower)
    assert (query.id, query.text, query.thought) == (text_id("q"), "q", "why")
    assert query.relevant == {"a": 1, "c": 1}
    assert query.negatives == ("b", "d")
    assert other.relevant == {"a": 1}
