import json
from pathlib import Path
from typing import Any

import pytest

from srch3.data import JsonlDataModule
from srch3.data.examples import text_id
from srch3.errors import DataError


def write(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("\n".join(map(json.dumps, records)))
    return str(path)


@pytest.fixture
def train(tmp_path: Path) -> str:
    return write(
        tmp_path / "train.jsonl",
        {"query": "one", "positives": ["A", "B"], "negatives": ["C"], "thought": "think"},
        {"query": "two", "positives": ["A"], "id": "own"},
        {"query": "one", "positives": ["D"], "negatives": ["C", "A"]},
    )


@pytest.fixture
def val(tmp_path: Path) -> str:
    return write(tmp_path / "val.jsonl", {"query": "three", "positives": ["E"]})


def test_the_corpus_is_the_union_of_all_texts(train: str, val: str) -> None:
    data = JsonlDataModule(train, val)
    assert list(data.corpus("train").texts) == ["A", "B", "C", "D", "E"]
    assert data.corpus("train") is data.corpus("val")
    assert data.corpus("train").ids[0] == text_id("A")


def test_lines_of_the_same_query_are_one_query(train: str, val: str) -> None:
    one, two = JsonlDataModule(train, val).queries("train")
    assert one.id == text_id("one")
    assert one.relevant == {text_id("A"): 1, text_id("B"): 1, text_id("D"): 1}
    assert one.negatives == (text_id("C"), text_id("A"))
    assert one.thought == "think"
    assert (two.id, two.text, two.relevant) == ("own", "two", {text_id("A"): 1})


def test_documents_of_the_corpus_file_keep_their_ids(tmp_path: Path, train: str, val: str) -> None:
    corpus = write(tmp_path / "corpus.jsonl", {"_id": "x", "text": "A"}, {"_id": "y", "title": "Z", "text": "z"})
    data = JsonlDataModule(train, val, corpus=corpus)
    assert list(data.corpus("val").ids[:3]) == ["x", "y", text_id("B")]
    assert data.corpus("val").texts[1] == "Z z"
    assert "x" in data.queries("train")[0].relevant


def test_without_a_validation_file_part_of_train_is_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "t.jsonl", *({"query": f"q{n}", "positives": [f"p{n}"]} for n in range(100)))
    data = JsonlDataModule(path, val_fraction=0.2)
    data.setup("fit")
    held = {query.text for query in data.queries("val")}
    assert held
    assert held.isdisjoint(query.text for query in data.queries("train"))
    assert len(held) + len(data.queries("train")) == 100
    assert f"{len(held)} of the training queries are held out" in caplog.text


def test_test_queries_need_a_file(train: str, val: str) -> None:
    with pytest.raises(DataError, match=r"data\.init_args\.test: expected examples to test with; got none"):
        JsonlDataModule(train, val).setup("test")
    data = JsonlDataModule(train, val, test=val)
    data.setup("predict")
    assert [query.text for query in data.queries("predict")] == ["three"]


def test_an_id_with_two_texts_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        {"query": "one", "positives": ["A"], "id": "q"},
        {"query": "two", "positives": ["A"], "id": "q"},
    )
    with pytest.raises(DataError, match="got 'one' and 'two' for 'q'"):
        JsonlDataModule(path).setup("fit")


def test_a_document_id_may_not_come_twice(tmp_path: Path, train: str) -> None:
    corpus = write(tmp_path / "corpus.jsonl", {"_id": "x", "text": "1"}, {"_id": "x", "text": "2"})
    with pytest.raises(DataError, match="got 'x' twice"):
        JsonlDataModule(train, corpus=corpus).setup("fit")


@pytest.mark.parametrize("setting", ["train", "val", "test", "corpus"])
def test_an_absent_file_is_named_with_its_setting(tmp_path: Path, train: str, setting: str) -> None:
    files = {"train": train} | {setting: str(tmp_path / "nowhere.jsonl")}
    with pytest.raises(DataError, match=rf"data\.init_args\.{setting}: expected a file at .*nowhere"):
        JsonlDataModule(**files).setup("fit")
