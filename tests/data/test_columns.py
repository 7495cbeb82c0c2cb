import pickle
from pathlib import Path

import numpy as np
import pytest

from srch3.data.columns import Column, ColumnWriter

TEXTS = ["plain", "", "Straße 東京", "half \ud83d of a pair", "null \0 inside", "line\nbreak", "last"]


@pytest.fixture(params=[1, 3, 7, 1000], ids="rows per chunk: {}".format)
def column(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Column:
    monkeypatch.setattr("srch3.data.columns._ROWS", request.param)
    with ColumnWriter(tmp_path / "file", "number", "text") as writer:
        for number, text in enumerate(TEXTS):
            writer.append(str(number), text)
    return Column(tmp_path / "file", "text")


def test_gives_back_what_was_written(column: Column) -> None:
    assert len(column) == 7
    assert list(column) == TEXTS
    assert [column[row] for row in range(7)] == TEXTS
    assert [column[row] for row in range(-7, 0)] == TEXTS
    assert column[np.int64(2)] == "Straße 東京"  # type: ignore[call-overload]
    for part in (slice(1, 5), slice(None, None, -2), slice(-2, None), slice(5, 2)):
        assert column[part] == TEXTS[part]


@pytest.mark.parametrize("row", [7, -8])
def test_a_row_beyond_the_end_is_refused(column: Column, row: int) -> None:
    with pytest.raises(IndexError, match=f"row {row} of 7"):
        column[row]


def test_pickles_as_a_path(column: Column) -> None:
    dumped = pickle.dumps(column)
    assert b"plain" not in dumped
    assert list(pickle.loads(dumped)) == TEXTS


def test_long_texts_make_short_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srch3.data.columns._CHARACTERS", 10)
    texts = ["a" * 10, "b" * 6, "c" * 6, "d", "e" * 25]
    with ColumnWriter(tmp_path / "file", "text") as writer:
        for text in texts:
            writer.append(text)
    column = Column(tmp_path / "file", "text")
    assert [len(chunk) for chunk in column._chunks] == [1, 2, 2]
    assert list(column) == texts


def test_no_rows_are_an_empty_column(tmp_path: Path) -> None:
    with ColumnWriter(tmp_path / "file", "text"):
        pass
    assert list(Column(tmp_path / "file", "text")) == []
    assert len(Column(tmp_path / "file", "text")) == 0
