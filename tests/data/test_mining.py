import json
import logging
import sys
from pathlib import Path

import pytest

from srch3.data import mining
from srch3.data.mining import mine, mine_files, query_key
from srch3.data.roots import SourceFile
from srch3.errors import DataError

FUNCTION = '''def {name}(first, second):
    """{doc}"""
    total = first + second + {number}
    return [total, first, second, "{number}"]


'''


def function(name: str, doc: str, number: int = 0) -> str:
    return FUNCTION.format(name=name, doc=doc, number=number)


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    write(
        folder / "b.py",
        function("add", "Adds one number to another.", 1) + function("sum_up", "Sums up two numbers.", 2),
    )
    write(folder / "package/__init__.py", function("join", "Joins two things into a list.", 3))
    write(folder / "tests/helpers.py", function("check", "Checks that two numbers are equal.", 4))
    return folder


def test_pairs_are_ordered_by_id_and_everything_is_counted(code: Path) -> None:
    mined = mine([str(code)], None)
    assert [pair.id for pair in mined.pairs] == ["b.add", "b.sum_up", "package.join"]
    assert [pair.module for pair in mined.pairs] == ["b", "b", "package"]
    assert mined.counts == {"files": 3, "test files": 1, "functions": 3, "duplicates": 0, "pairs": 3}


def test_duplicates_keep_the_first_by_id(tmp_path: Path) -> None:
    write(tmp_path / "b.py", function("same_query", "Adds one number to ANOTHER", 1))
    write(
        tmp_path / "a.py",
        function("first", "Adds one number to another.", 2) + function("kept", "Keeps what is its own.", 3),
    )
    write(tmp_path / "c.py", function("kept", "Describes the same code in other words.", 3))
    mined = mine([str(tmp_path)], None)
    assert [pair.id for pair in mined.pairs] == ["a.first", "a.kept"]
    assert mined.counts["duplicates"] == 2


def test_names_that_come_twice_get_different_ids(tmp_path: Path) -> None:
    source = function("add", "Adds one number to another.", 1) + function("add", "Adds them in another way.", 2)
    write(tmp_path / "a.py", source)
    pairs = mine([str(tmp_path)], None).pairs
    assert [(pair.id, pair.query) for pair in pairs] == [
        ("a.add", "Adds one number to another."),
        ("a.add~2", "Adds them in another way."),
    ]


def test_files_that_cannot_be_used_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "MAX_FILE_BYTES", 5000)
    write(tmp_path / "good.py", function("add", "Adds one number to another."))
    write(tmp_path / "syntax.py", "def f(:")
    write(tmp_path / "null.py", b"x = 1\0")
    write(tmp_path / "bytes.py", b"x = '\xff\xfe'")
    write(tmp_path / "coding.py", b"# coding: no-such-encoding\n")
    write(tmp_path / "deep.py", "x = " + "(" * 2000 + ")" * 2000)
    write(tmp_path / "huge.py", "x = 1\n" * 1000)
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    files = [SourceFile(str(path), path.stem) for path in tmp_path.glob("*.py")]
    mined = mine_files(files)
    assert mined.counts == {
        "files": 8, "unparsable files": 5, "huge files": 1, "unreadable files": 1,
        "functions": 1, "duplicates": 0, "pairs": 1,
    }  # fmt: skip


def test_declared_encodings_are_honoured(tmp_path: Path) -> None:
    source = "# coding: latin-1\n" + function("add", "Addiert größere Zahlen miteinander.")
    write(tmp_path / "a.py", source.encode("latin-1"))
    assert mine([str(tmp_path)], None).pairs[0].query == "Addiert größere Zahlen miteinander."


def test_no_pair_is_an_error_that_says_what_was_seen(code: Path, tmp_path: Path) -> None:
    write(tmp_path / "other/a.py", "def f():\n    return 1\n\n\ndef g():\n    return 2\n")
    message = (
        r"^data\.init_args\.test_roots: expected functions with a docstring; got none from \S+/other"
        r" \(2 functions, 2 no docstring, 1 files, 0 duplicates, 0 pairs\)"
    )
    with pytest.raises(DataError, match=message):
        mine([str(tmp_path / "other")], None, "data.init_args.test_roots")


def test_nothing_is_mined_twice_until_something_changes(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache" / "inner"
    first = mine([str(code)], cache)
    with monkeypatch.context() as patch:
        patch.setattr(mining, "extract", lambda *_: pytest.fail("mined again"))
        assert mine([str(code)], cache) == first
    assert [path.suffix for path in cache.iterdir()] == [".jsonl"]
    write(code / "new.py", function("multiply", "Multiplies one number by another.", 9))
    assert len(mine([str(code)], str(cache)).pairs) == 4
    assert len(list(cache.iterdir())) == 2


def test_kept_pairs_hold_any_text(tmp_path: Path) -> None:
    source = "def f(a):\n    '''Finds ü, \\u2028, \\ud800 and “quotes” in it.'''\n"
    source += "    b = a + 'ü\u2028€'\n    return [b, b, b, b, 'a longer text than that']\n"
    write(tmp_path / "code/a.py", source)
    first = mine([str(tmp_path / "code")], tmp_path / "cache")
    assert mine([str(tmp_path / "code")], tmp_path / "cache") == first
    first.pairs[0].query.encode("utf-8")


@pytest.mark.parametrize("content", ["", "{}\nnot json", '{"pairs": 1}\n["too", "few"]\n', "\udcff"])
def test_a_broken_cache_is_mined_anew(
    content: str, code: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = mine([str(code)], tmp_path)
    (kept,) = tmp_path.glob("*.jsonl")
    kept.write_bytes(content.encode(errors="surrogateescape"))
    assert mine([str(code)], tmp_path) == first
    assert "mining again" in caplog.text
    assert json.loads(kept.read_text().splitlines()[0])["pairs"] == 3


def test_a_folder_that_cannot_keep_anything_only_warns(
    code: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "file", "in the way")
    assert len(mine([str(code)], tmp_path / "file" / "cache").pairs) == 3
    assert "mined again next time" in caplog.text


def test_a_failed_write_leaves_nothing_behind(code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    mine([str(code)], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_several_processes_find_the_same(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = mine([str(code), "iniconfig"], None)
    monkeypatch.setattr(mining, "_PARALLEL_FROM", 1)
    monkeypatch.setattr(mining, "_FILES_PER_TASK", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert mine([str(code), "iniconfig"], None) == alone


def test_a_part_of_the_standard_library(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder = Path(json.__file__).parent
    pairs = {pair.id: pair for pair in mine([str(folder)], None).pairs}
    assert pairs["json.dump"].query.startswith("Serialize obj as a JSON formatted stream to fp")
    assert pairs["json.dump"].document.startswith("def dump(obj, fp, *, skipkeys=False")
    assert '"""' not in pairs["json.dump"].document
    assert "json.encoder.JSONEncoder.iterencode" in pairs
    assert all(pair.module.startswith("json") for pair in pairs.values())
    assert "functions" in caplog.text


def test_query_key_ignores_case_and_the_full_stop() -> None:
    assert query_key("Adds Numbers.") == query_key("adds numbers")
    assert query_key("adds numbers") != query_key("adds a number")
