from pathlib import Path

import pytest

from srch3.data.documents_file import read_documents, read_queries
from srch3.errors import DataError


def test_documents_have_their_titles_before_their_texts(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "a", "title": "T", "text": "x"}\n\n{"_id": "b", "text": "y"}\n{"_id": "c", "text": ""}\n')
    assert list(read_documents(path, "corpus")) == [("a", "T x"), ("b", "y"), ("c", "")]


def test_queries_have_ids_and_texts(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text('{"_id": "a", "text": "x"}\n{"_id": "b"}\n')
    queries = read_queries(path, "queries")
    assert next(queries) == ("a", "x")
    with pytest.raises(DataError, match=r"queries.jsonl:2: expected a field 'text'"):
        next(queries)
