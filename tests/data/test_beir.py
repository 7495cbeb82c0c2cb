import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from srch3.data import BeirDataModule
from srch3.errors import ConfigError, DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    documents = [{"_id": f"d{n}", "title": f"Title {n}", "text": f"text {n}"} for n in range(5)]
    documents.append({"_id": "d5", "text": "no title"})
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    queries = [{"_id": f"q{n}", "text": f"query {n}"} for n in range(60)]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (tmp_path / "qrels").mkdir()
    write_qrels(tmp_path, "train", [f"q{n}\td{n % 5}\t1" for n in range(50)])
    write_qrels(tmp_path, "dev", ["q51\td2\t2", "q50\td1\t1", "q50\td5\t3", "q50\td2\t0", "q52\td2\t0"])
    write_qrels(tmp_path, "test", ["q53\td0\t1", "q54\td1\t1", ""])
    return tmp_path


def write_qrels(root: Path, split: str, lines: list[str]) -> None:
    (root / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")


def test_reads_queries_judgements_and_documents(root: Path) -> None:
    data = BeirDataModule(str(root))
    assert [query.id for query in data.queries("val")] == ["q50", "q51"]
    assert data.queries("val")[0].text == "query 50"
    assert data.queries("val")[0].relevant == {"d1": 1, "d5": 3}
    assert len(data.queries("train")) == 50
    assert data.queries("predict") == data.queries("test")
    assert list(data.corpus("train").texts[4:]) == ["Title 4 text 4", "no title"]
    assert data.corpus("train") is data.corpus("val") is data.corpus("test")


def test_without_validation_judgements_part_of_train_is_held_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "qrels/dev.tsv").unlink()
    data = BeirDataModule(str(root), val_fraction=0.3)
    held = {query.id for query in data.queries("val")}
    kept = {query.id for query in data.queries("train")}
    assert held
    assert not held & kept
    assert held | kept == {f"q{n}" for n in range(50)}
    assert f"{len(held)} of the training queries are held out" in caplog.text


def test_the_names_of_splits_are_settings(root: Path) -> None:
    write_qrels(root, "unseen", ["q55\td3\t1"])
    assert [query.id for query in BeirDataModule(str(root), test_split="unseen").queries("test")] == ["q55"]


def test_training_needs_no_test_split(root: Path) -> None:
    (root / "qrels/test.tsv").unlink()
    data = BeirDataModule(str(root))
    data.setup("fit")
    assert len(data.queries("train")) == 50
    with pytest.raises(DataError, match=r"expected a file at .*test\.tsv"):
        data.setup("test")


def test_a_held_out_share_is_checked(root: Path) -> None:
    (root / "qrels/dev.tsv").unlink()
    with pytest.raises(ConfigError, match=r"data\.init_args\.val_fraction"):
        BeirDataModule(str(root), val_fraction=1.0).setup("fit")


def rewritten(name: str, content: str) -> Callable[[Path], int]:
    return lambda root: (root / name).write_text(content)


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda root: (root / "corpus.jsonl").unlink(), "data.init_args.root: expected a file at"),
        (lambda root: (root / "queries.jsonl").unlink(), "data.init_args.root: expected a file at"),
        (lambda root: (root / "qrels/train.tsv").unlink(), "data.init_args.root: expected a file at"),
        (rewritten("corpus.jsonl", "\n"), "expected at least one document in"),
        (rewritten("corpus.jsonl", '{"_id": "d0"}'), "corpus.jsonl:1: expected a field 'text'"),
        (rewritten("queries.jsonl", '{"_id": "q"'), "queries.jsonl:1: expected one JSON object per line"),
        (rewritten("queries.jsonl", '{"_id": "q", "text": ""}\n' * 2), "queries.jsonl:2: expected unique query ids"),
        (rewritten("qrels/train.tsv", "h\nq0\td9\t1"), "got 'd9', judged for query 'q0', without a document"),
        (rewritten("qrels/train.tsv", "h\nq99\td0\t1"), "train.tsv:2: expected the id of a query in queries.jsonl"),
        (rewritten("qrels/train.tsv", "h\nq0\td0\t0.5"), "train.tsv:2: expected an integer grade; got '0.5'"),
        (rewritten("qrels/train.tsv", "h\nq0 0 d0 1"), "separated by tabs; got 'q0 0 d0 1'"),
        (rewritten("qrels/train.tsv", "h\n"), "at least one query with a relevant document in train"),
    ],
)
def test_what_is_broken_is_named(root: Path, breaking: Callable[[Path], object], message: str) -> None:
    breaking(root)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        BeirDataModule(str(root)).setup("fit")
    assert "\n" not in str(caught.value)


def test_an_absent_folder_is_named() -> None:
    with pytest.raises(DataError, match=r"data\.init_args\.root: expected a folder at nowhere; got none"):
        BeirDataModule("nowhere").setup("test")


def test_unjudged_queries_are_counted_in_the_log(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        BeirDataModule(str(root)).queries("val")
    assert "val: left out 1 queries without a relevant document" in caplog.text
