from pathlib import Path

import pytest

from srch3.errors import DataError
from srch3.inference.texts_file import Texts, read_document_file, read_query_file


def test_a_folder_a_file_and_plain_lines_are_read(tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "a"}\n')
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d", "title": "T", "text": "b"}\n{"_id": "e", "text": "T b"}\n')
    (tmp_path / "lines.txt").write_text("first\n\n third \n")
    assert read_query_file(tmp_path, "queries") == Texts(["q"], ["a"])
    assert read_query_file(tmp_path / "queries.jsonl", "queries") == Texts(["q"], ["a"])
    assert read_document_file(tmp_path, "input") == Texts(["d", "e"], ["T b", "T b"])
    for read in (read_query_file, read_document_file):
        assert read(tmp_path / "lines.txt", "input") == Texts(["1", "3"], ["first", "third"])


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "twice.jsonl").write_text('{"_id": "q", "text": "a"}\n{"_id": "q", "text": "a"}\n')
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match=r"queries: expected a file at .*none.txt"):
        read_query_file(tmp_path / "none.txt", "queries")
    with pytest.raises(DataError, match=r"queries: expected each id once in .*twice.jsonl; got 'q' twice"):
        read_query_file(tmp_path / "twice.jsonl", "queries")
    with pytest.raises(DataError, match=r"input: expected at least one text in .*empty.txt; got none"):
        read_document_file(tmp_path / "empty.txt", "input")


@pytest.mark.parametrize("name", ["queries.json", "queries.jsonl.gz", "queries.parquet"])
def test_files_without_lines_of_text_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"_id": "a", "text": "b"}')
    with pytest.raises(DataError, match=r"input: expected \.jsonl, or a file of plain lines; got"):
        read_query_file(tmp_path / name, "input")


def test_capital_letters_make_no_other_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "q.JSONL").write_text('{"_id": "a", "text": "b"}')
    assert read_query_file(tmp_path / "q.JSONL", "input").ids == ["a"]
