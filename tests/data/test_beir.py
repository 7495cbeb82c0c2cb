import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srch3.data import BeirDataModule
from srch3.errors import ConfigError, DataError
from srch3.types import Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")


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


def test_the_corpus_is_read_once_and_again_when_it_has_changed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = BeirDataModule(str(root)).corpus("train")
    with monkeypatch.context() as patch:
        patch.setattr(BeirDataModule, "_write_corpus", None)
        assert list(BeirDataModule(str(root)).corpus("train").texts) == list(before.texts)
    with (root / "corpus.jsonl").open("a") as file:
        file.write('\n{"_id": "new", "text": "another"}')
    after = BeirDataModule(str(root)).corpus("train")
    assert list(after.ids) == [*before.ids, "new"]
    assert after.texts[after.row("new")] == "another"


def test_document_ids_are_unique(root: Path) -> None:
    (root / "corpus.jsonl").write_text('{"_id": "d1", "text": ""}\n' * 2)
    with pytest.raises(DataError, match="corpus: expected unique document ids; got 'd1' twice"):
        BeirDataModule(str(root)).corpus("train")


def test_queries_may_have_a_thought_and_a_weight(root: Path) -> None:
    lines = [{"_id": "q0", "text": "a", "thought": "hm", "weight": 2}, {"_id": "q1", "text": "b", "weight": None}]
    (root / "queries.jsonl").write_text("\n".join(map(json.dumps, [*lines, {"_id": "v", "text": "c"}])))
    write_qrels(root, "train", ["q0\td0\t1", "q1\td0\t1"])
    write_qrels(root, "dev", ["v\td0\t1"])
    (root / "qrels/test.tsv").unlink()
    assert [(query.thought, query.weight) for query in BeirDataModule(str(root)).queries("train")] == [
        ("hm", 2.0),
        (None, 1.0),
    ]


@pytest.mark.parametrize("weight", ['"2"', "true", "[1]"])
def test_a_weight_is_a_number(root: Path, weight: str) -> None:
    (root / "queries.jsonl").write_text(f'{{"_id": "q0", "text": "a", "weight": {weight}}}')
    with pytest.raises(DataError, match=r"queries\.jsonl:1: expected a number as 'weight'; got"):
        BeirDataModule(str(root)).queries("val")


def test_a_weight_that_is_nan_is_invalid(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = (root / "queries.jsonl").read_text().replace('"q7", ', '"q7", "weight": NaN, ')
    (root / "queries.jsonl").write_text(lines)
    with pytest.raises(DataError, match="query 'q7' with a weight that is not a finite number of at least 0, nan"):
        BeirDataModule(str(root)).setup("fit")
    assert len(BeirDataModule(str(root), invalid="skip").queries("train")) == 49
    assert "left out as invalid: 1 with a weight" in caplog.text


def write_negatives(root: Path, split: str, lines: list[str]) -> None:
    (root / "negatives").mkdir(exist_ok=True)
    (root / "negatives" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id", *lines]) + "\n")


def test_titles_can_be_thoughts(root: Path) -> None:
    documents = [
        {"_id": f"d{n}", "title": f"Title {n} (of (five))" if n else "Title (0)", "text": "t"} for n in range(5)
    ]
    documents.append({"_id": "d5", "text": "no title"})
    (root / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    queries = [{"_id": f"q{n}", "text": f"query {n}", **({"thought": "own"} if n == 1 else {})} for n in range(60)]
    (root / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    write_qrels(root, "train", ["q0\td0\t1", "q1\td1\t1", "q2\td5\t1", "q2\td1\t1", "q3\td3\t1"])
    thoughts = [query.thought for query in BeirDataModule(str(root), title_thoughts=True).queries("train")]
    assert thoughts == ["Title", "own", "", "Title 3 (of (five))"]
    assert [query.thought for query in BeirDataModule(str(root)).queries("train")] == [None, "own", None, None]
    assert BeirDataModule(str(root), title_thoughts=True).queries("val")[0].thought is None


def test_negatives_are_read_in_their_order(root: Path) -> None:
    write_negatives(root, "train", ["q0\td3", "q2\td1", "q0\td1", "", "q53\td1"])
    first, second, third = BeirDataModule(str(root)).queries("train")[:3]
    assert (first.negatives, second.negatives, third.negatives) == (("d3", "d1"), (), ("d1",))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q0\td1\t1", "train.tsv:2: expected query id, document id, separated by tabs; got"),
        ("q99\td1", "train.tsv:2: expected the id of a query in queries.jsonl; got 'q99'"),
        ("q0\td9", "got 'd9', judged for query 'q0', without a document"),
        ("q0\td0", "query 'q0' with a negative that is relevant, 'd0'"),
    ],
)
def test_broken_negatives_are_named(root: Path, line: str, message: str) -> None:
    write_negatives(root, "train", [line])
    with pytest.raises(DataError, match=re.escape(message)):
        BeirDataModule(str(root)).setup("fit")


def everything(data: BeirDataModule) -> Any:
    documents = data.corpus("train")
    return [data.queries(split) for split in SPLITS], list(documents.ids), list(documents.texts)


@pytest.mark.parametrize("held_out", [False, True])
def test_negatives_that_are_written_are_read_and_nothing_else_changes(
    root: Path, tmp_path_factory: pytest.TempPathFactory, held_out: bool
) -> None:
    write_negatives(root, "train", ["q0\td1", "q1\td2", "q2\td3"])
    write_negatives(root, "other", ["q2\td3"])
    if held_out:
        (root / "qrels/dev.tsv").unlink()
    data = BeirDataModule(str(root))
    chosen = [query.id for query in data.queries("train") if query.relevant == {"d0": 1}]
    found = {chosen[0]: ["d4", "d3"], "q2": [], chosen[1]: ("d3",)}
    folder = tmp_path_factory.mktemp("new") / "a folder"
    before = (root / "negatives/train.tsv").read_text()
    assert data.write_negatives(folder, found) == f"--data.init_args.root '{folder}'"
    (queries, *evaluated), *documents = everything(data)
    (written, *others), *same = everything(BeirDataModule(str(folder)))
    assert (others, same) == (evaluated, documents)
    assert written == [
        query._replace(negatives=tuple(found[query.id])) if query.id in found else query for query in queries
    ]
    assert (root / "negatives/train.tsv").read_text() == before


def test_negatives_of_another_split_are_written_under_its_name(root: Path, tmp_path: Path) -> None:
    write_qrels(root, "fit", ["q0\td0\t1"])
    data = BeirDataModule(str(root), train_split="fit")
    data.write_negatives(tmp_path / "new", {"q0": ["d1"]})
    assert (tmp_path / "new/negatives/fit.tsv").read_text() == "query-id\tcorpus-id\nq0\td1\n"
    assert BeirDataModule(str(tmp_path / "new"), train_split="fit").queries("train")[0].negatives == ("d1",)


def test_training_queries_that_are_judged_irrelevant_are_counted_in_the_log(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_qrels(root, "train", ["q0\td0\t1", "q1\td1\t0", "q2\td1\t-1"])
    with caplog.at_level(logging.INFO):
        assert [query.id for query in BeirDataModule(str(root)).queries("train")] == ["q0"]
    assert "train: left out 2 queries without a relevant document" in caplog.text


def test_unjudged_queries_are_counted_in_the_log(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        BeirDataModule(str(root)).queries("val")
    assert "val: left out 1 queries without a relevant document" in caplog.text
