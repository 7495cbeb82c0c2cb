import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from srch3.data import JsonlDataModule
from srch3.data.examples import text_id
from srch3.errors import DataError
from srch3.types import Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def write(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("\n".join(map(json.dumps, records)))
    return str(path)


@pytest.fixture
def train(tmp_path: Path) -> str:
    return write(
        tmp_path / "train.jsonl",
        {"query": "one", "positives": ["A", "B"], "negatives": ["C"], "thought": "think"},
        {"query": "two", "positives": ["A"], "id": "own"},
        {"query": "one", "positives": ["D"], "negatives": ["C", "E"]},
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
    assert one.negatives == (text_id("C"), text_id("E"))
    assert one.thought == "think"
    assert (two.id, two.text, two.relevant) == ("own", "two", {text_id("A"): 1})


def test_documents_of_the_corpus_file_keep_their_ids(tmp_path: Path, train: str, val: str) -> None:
    corpus = write(tmp_path / "corpus.jsonl", {"_id": "x", "text": "A"}, {"_id": "y", "title": "Z", "text": "z"})
    data = JsonlDataModule(train, val, corpus=corpus)
    assert list(data.corpus("val").ids[:3]) == ["x", "y", text_id("B")]
    assert data.corpus("val").texts[1] == "Z z"
    assert "x" in data.queries("train")[0].relevant


def test_what_a_file_is_for_decides_over_the_corpus(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", {"query": "one", "positives": ["A"]})
    second = write(tmp_path / "b.jsonl", {"query": "two", "positives": ["B"]})
    assert list(JsonlDataModule(first, second).corpus("val").texts) == ["A", "B"]
    assert list(JsonlDataModule(second, first).corpus("val").texts) == ["B", "A"]
    write(tmp_path / "a.jsonl", {"query": "one", "positives": ["C", "B"]})
    assert list(JsonlDataModule(first, second).corpus("val").texts) == ["C", "B"]


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


def test_a_line_may_have_a_weight(tmp_path: Path, val: str) -> None:
    path = write(
        tmp_path / "t.jsonl",
        {"query": "one", "positives": ["A"], "weight": 2.5},
        {"query": "two", "positives": ["A"]},
        {"query": "one", "positives": ["B"], "weight": 2.5},
    )
    assert [query.weight for query in JsonlDataModule(path, val).queries("train")] == [2.5, 1.0]


def test_lines_of_a_query_agree_about_its_weight(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl", {"query": "one", "positives": ["A"], "weight": 2}, {"query": "one", "positives": ["B"]}
    )
    with pytest.raises(DataError, match=rf"one weight per query; got 2\.0 and 1\.0 for '{text_id('one')}'"):
        JsonlDataModule(path).setup("fit")


def test_invalid_lines_are_named_or_left_out(tmp_path: Path, val: str, caplog: pytest.LogCaptureFixture) -> None:
    path = write(
        tmp_path / "t.jsonl",
        {"query": "good", "positives": ["A"], "negatives": ["B"]},
        {"query": "no positive", "positives": [], "id": "first"},
        {"query": " ", "positives": ["A"]},
        {"query": "same", "positives": ["A"], "negatives": ["B", "A"]},
        {"query": "unknown", "positives": ["A"], "weight": float("nan")},
        {"query": "unknown", "positives": ["B"], "weight": 1},
        {"query": "nothing", "positives": [""]},
    )
    with pytest.raises(DataError, match=r"query 'first' with no relevant document \(and 4 more\); .*invalid: skip"):
        JsonlDataModule(path, val).setup("fit")
    good, same = JsonlDataModule(path, val, invalid="skip").queries("train")
    assert (good.text, same.text, same.negatives) == ("good", "same", (text_id("B"),))
    (record,) = caplog.records
    assert record.message.count("1 with") == 5


@pytest.mark.parametrize("fraction", [0.1, 0.9])
def test_invalid_lines_are_left_out_where_validation_is_held_out(tmp_path: Path, fraction: float) -> None:
    good = [{"query": f"q{n}", "positives": [f"p{n}"]} for n in range(100)]
    path = write(tmp_path / "t.jsonl", {"query": "", "positives": ["A"]}, {"query": "x", "positives": []}, *good)
    data = JsonlDataModule(path, val_fraction=fraction, invalid="skip")
    data.setup("fit")
    assert len(data.queries("train")) + len(data.queries("val")) == 100


@pytest.mark.parametrize("validated", [True, False])
def test_negatives_that_are_written_are_read_and_nothing_else_changes(tmp_path: Path, validated: bool) -> None:
    lines = [{"query": f"q{n}", "positives": [f"p{n}"], "negatives": [f"only here {n}"]} for n in range(40)]
    special = [
        {"query": "own", "positives": ["p1", "\ud800 p2"], "id": "its own", "thought": "hm", "weight": 0.25},
        {"query": "own", "positives": ["y y"], "negatives": ["z"], "id": "its own", "weight": 0.25},
    ]
    train = write(tmp_path / "t.jsonl", *lines, *special)
    val = write(tmp_path / "v.jsonl", {"query": "v", "positives": ["only in val"]})
    corpus = write(tmp_path / "c.jsonl", {"_id": "y", "title": "y", "text": "y"}, {"_id": "yy", "text": "y y"})
    settings: dict[str, Any] = {"val": val if validated else None, "test": val, "corpus": corpus}
    data = JsonlDataModule(train, **settings)
    found = {text_id("q3"): ["y", text_id("p5")], "its own": [text_id("only here 7")], text_id("q4"): ()}
    folder = tmp_path / "a folder"
    options = data.write_negatives(folder, found)
    named = dict(zip(*[iter(shlex.split(options))] * 2, strict=True))
    assert list(named) == ["--data.init_args.train", "--data.init_args.corpus"]
    written = JsonlDataModule(**settings | {name.rpartition(".")[2]: path for name, path in named.items()})
    for split in SPLITS:
        assert written.queries(split) == [
            query._replace(negatives=tuple(found[query.id])) if query.id in found else query
            for query in data.queries(split)
        ]
    assert list(written.corpus("train").ids) == list(data.corpus("train").ids)
    assert list(written.corpus("train").texts) == list(data.corpus("train").texts)


def test_texts_are_taken_as_they_are(tmp_path: Path) -> None:
    """A positive is the document of the corpus file that has its text, spaces and line breaks included."""
    corpus = write(tmp_path / "corpus.jsonl", {"_id": "mine", "text": "foo\n"})
    train = write(tmp_path / "train.jsonl", *({"query": f"q{number}", "positives": ["foo\n"]} for number in range(30)))
    data = JsonlDataModule(train, corpus=corpus)
    assert list(data.corpus("train").ids) == ["mine"]
    assert all(query.relevant == {"mine": 1} for query in data.queries("train"))
