import re
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from srch3.errors import DataError
from srch3.metrics.trec_files import check_ids, falling_scores, read_qrels, read_run, write_qrels, write_run

RUN = "q1 Q0 d2 1 0.5 a\nq1\tQ0\td1\t2\t-1e-3\ta\n\nq2  Q0 dä 7 inf a  \r\n"


def file(folder: Path, text: str, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_a_run_is_read_with_tabs_blank_lines_and_whatever_rank(tmp_path: Path) -> None:
    assert read_run(file(tmp_path, RUN)) == {"q1": {"d2": 0.5, "d1": -0.001}, "q2": {"dä": float("inf")}}


def test_a_run_with_a_byte_order_mark_has_the_same_first_query(tmp_path: Path) -> None:
    assert list(read_run(file(tmp_path, "\ufeffq Q0 d 1 1 a\n"))) == ["q"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 d 1 1 a\nq Q0 e 2 1\n", ":2: expected 'query-id Q0 document-id rank score tag'; got 'q Q0 e 2 1'"),
        ("q Q0 d 1 high a\n", ":1: expected a number as score; got 'high'"),
        ("q Q0 d 1 nan a\n", ":1: expected a number as score; got 'nan'"),
        ("q Q0 d 1 1 a\nq Q0 d 2 0 a\n", ":2: expected each document once per query; got 'd' again for 'q'"),
        ("\n", "run: expected at least one hit in .*; got none"),
    ],
)
def test_broken_runs_are_refused_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_run(file(tmp_path, text))


def test_absent_and_undecodable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run_b: expected a file at .*/none; got none; check the path"):
        read_run(tmp_path / "none", "run_b")
    (tmp_path / "binary").write_bytes(b"q 0 d\xff 1\n")
    with pytest.raises(DataError, match="qrels: expected text in UTF-8"):
        read_qrels(tmp_path / "binary")


def test_a_written_run_is_read_back_by_us_and_by_trec_eval_in_the_order_given(tmp_path: Path) -> None:
    run = {"q": dict.fromkeys(["b", "a", "c"], 0.7), "r": {"ü": 1 / 3}}
    write_run(tmp_path / "a.trec", run, "tag")
    found = read_run(tmp_path / "a.trec")
    assert [list(hits) for hits in found.values()] == [["b", "a", "c"], ["ü"]]
    single = np.array(list(found["q"].values()), np.float32)
    assert (np.diff(single) < 0).all()
    assert np.abs(single - np.float32(0.7)).max() < 2e-7
    assert np.float32(found["r"]["ü"]) == np.float32(1 / 3)
    with (tmp_path / "a.trec").open(encoding="utf-8") as lines:
        assert pytrec_eval.parse_run(lines) == found
    assert re.fullmatch(r"q Q0 b 1 \S+ tag\n", (tmp_path / "a.trec").read_text().splitlines(keepends=True)[0])
    assert [path.name for path in tmp_path.iterdir()] == ["a.trec"]


def test_judgements_are_read_in_either_form(tmp_path: Path) -> None:
    expected = {"q1": {"d1": 2, "d 2": 0}, "q2": {"d1": -1}}
    beir = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td 2\t0\r\nq2\td1\t-1\n"
    assert read_qrels(file(tmp_path, beir)) == expected
    trec = "q1 0 d1 2\nq1\t0\td2\t0\nq2  0 d1 -1\n"
    assert read_qrels(file(tmp_path, trec)) == {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}}


def test_the_first_line_of_beirs_form_is_skipped_whatever_it_says(tmp_path: Path) -> None:
    assert read_qrels(file(tmp_path, "q0\td0\t1\nq1\td1\t1\n")) == {"q1": {"d1": 1}}


def test_a_judgement_given_twice_counts_once_unless_the_grades_differ(tmp_path: Path) -> None:
    assert read_qrels(file(tmp_path, "q 0 d 1\nq 0 d 1\n")) == {"q": {"d": 1}}
    with pytest.raises(DataError, match=":2: expected one grade per document; got another one for 'd' of 'q'"):
        read_qrels(file(tmp_path, "q 0 d 1\nq 0 d 2\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "file: expected 'query-id 0 document-id grade', or BEIR's header"),
        ("q d 1\n", ":1: expected 'query-id 0 document-id grade', or BEIR's header"),
        ("q 0 d 1\nq 0 d\n", ":2: expected 4 columns, as in the first line; got 'q 0 d'"),
        ("a\tb\tc\nq\td\n", ":2: expected 3 columns"),
        ("q 0 d 1.5\n", ":1: expected an integer grade; got '1.5'"),
        ("a\tb\tc\n", "qrels: expected at least one judgement in .*; got none"),
    ],
)
def test_broken_judgements_are_refused_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_qrels(file(tmp_path, text))


def test_written_judgements_are_trecs(tmp_path: Path) -> None:
    qrels = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}}
    write_qrels(tmp_path / "qrels", qrels)
    assert (tmp_path / "qrels").read_text() == "q1 0 d1 2\nq1 0 d2 0\nq2 0 d1 -1\n"
    assert read_qrels(tmp_path / "qrels") == qrels
    with (tmp_path / "qrels").open() as lines:
        assert pytrec_eval.parse_qrel(lines) == qrels


@pytest.mark.parametrize("name", ["", "a b", " a", "a\n", "a\tb"])
def test_ids_with_white_space_are_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="out: expected ids without white space"):
        check_ids(["fine", name], "out")
    for run in ({name: {"d": 1.0}}, {"q": {name: 1.0}}):
        with pytest.raises(DataError, match="white space"):
            write_run(tmp_path / "a", run, "tag")
    with pytest.raises(DataError, match="white space"):
        write_run(tmp_path / "a", {"q": {"d": 1.0}}, name)
    for qrels in ({name: {"d": 1}}, {"q": {name: 1}}):
        with pytest.raises(DataError, match="white space"):
            write_qrels(tmp_path / "a", qrels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("first", [1.0, 1e-30, 0.0, -0.5, -1.0])
def test_equal_scores_are_lowered_by_the_least(first: float) -> None:
    fallen = falling_scores([first, first])
    assert fallen == [np.float32(first), np.nextafter(np.float32(first), np.float32(-np.inf))]


def test_scores_that_fall_already_are_kept() -> None:
    assert falling_scores([0.5, 0.25, -0.125]) == [0.5, 0.25, -0.125]
    assert falling_scores([]) == []
