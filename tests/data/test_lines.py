import re
from pathlib import Path

import pytest

from srch3.data.lines import read_lines
from srch3.errors import DataError


def test_reads_objects_with_their_places_and_skips_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('\ufeff{"a": "é", "n": null}\n\n{"a": "2", "l": ["x"]}\n', encoding="utf-8")
    first, second = read_lines(path, "x")
    assert (first.place, first.text("a"), first.optional_text("n"), first.texts("l")) == (f"{path}:1", "é", None, [])
    assert (second.place, second.texts("l")) == (f"{path}:3", ["x"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": "1"}\n{"a"', "x.jsonl:2: expected one JSON object per line; got broken JSON"),
        (b"[1, 2]\n", "x.jsonl:1: expected one JSON object per line; got [1, 2]"),
        (b'{"a": "\xff"}', "expected text in UTF-8"),
        (b'{"b": "1"}', "x.jsonl:1: expected a field 'a'; got ['b']"),
        (b'{"a": 7}', "x.jsonl:1: expected a string as 'a'; got 7"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        [line.text("a") for line in read_lines(path, "x")]
    assert "\n" not in str(caught.value)


def test_a_list_must_hold_strings(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"l": "x"}\n{"l": ["x", 1]}\n')
    for line in read_lines(path, "x"):
        with pytest.raises(DataError, match="expected a list of strings as 'l'"):
            line.texts("l")


def test_an_absent_file_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.init_args\.train: expected a file at .*nowhere"):
        next(read_lines(tmp_path / "nowhere", "data.init_args.train"))
