import json
from pathlib import Path

import pytest

from srch3.commands.thoughts_file import ThoughtsFile
from srch3.errors import ConfigError, DataError
from srch3.types import Query

SETTINGS = {"model": "teacher", "prompt": "{query}?", "temperature": 0.0}


def begun(path: Path) -> ThoughtsFile:
    file = ThoughtsFile(path)
    assert file.begin(SETTINGS) == {}
    file.append([Query("a", "A", {}), Query("ü", "Ü", {})], ["one", "zwölf"])
    file.append([Query("c", "C", {})], [""])
    return file


def test_lines_are_added_and_their_ids_are_known_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "thoughts.jsonl"
    begun(path)
    assert path.read_text("utf-8") == (
        '{"id": "a", "query": "A", "thought": "one"}\n{"id": "ü", "query": "Ü", "thought": "zwölf"}\n'
        '{"id": "c", "query": "C", "thought": ""}\n'
    )
    assert json.loads((tmp_path / "new" / "thoughts.jsonl.settings.json").read_text()) == SETTINGS
    assert ThoughtsFile(path).begin(SETTINGS) == {"a": "A", "ü": "Ü", "c": "C"}


@pytest.mark.parametrize("cut", [1, 2, 10, 26])
def test_a_last_line_that_was_not_finished_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "thoughts.jsonl"
    begun(path)
    path.write_bytes(path.read_bytes()[:-cut])
    file = ThoughtsFile(path)
    assert file.begin(SETTINGS) == {"a": "A", "ü": "Ü"}
    file.append([Query("d", "D", {})], ["four"])
    assert [json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()] == ["a", "ü", "d"]


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "thoughts.jsonl"
    begun(path)
    with pytest.raises(ConfigError, match=r"was begun with model 'teacher'; got 'other'; give another name, or remove"):
        ThoughtsFile(path).begin({**SETTINGS, "model": "other"})
    assert ThoughtsFile(path).begin(SETTINGS) == {"a": "A", "ü": "Ü", "c": "C"}


@pytest.mark.parametrize("damage", ["", "{"])
def test_a_file_of_unknown_origin_is_refused_and_left_alone(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "thoughts.jsonl"
    path.write_text("precious")
    if damage:
        path.with_name("thoughts.jsonl.settings.json").write_text(damage)
    with pytest.raises(ConfigError, match=r"output: expected a new file, or one that think began"):
        ThoughtsFile(path).begin(SETTINGS)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("line", ["{]", "[]", '{"thought": "x"}'])
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "thoughts.jsonl"
    file = begun(path)
    with path.open("a") as stream:
        stream.write(f"{line}\n")
    file.append([Query("d", "D", {})], ["four"])
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"thoughts.jsonl:4: expected .* remove the line"):
        ThoughtsFile(path).begin(SETTINGS)
    assert path.read_bytes() == before


@pytest.mark.parametrize("remove", [True, False])
def test_settings_of_a_file_without_content_do_not_matter(tmp_path: Path, remove: bool) -> None:
    path = tmp_path / "thoughts.jsonl"
    begun(path)
    path.unlink() if remove else path.write_bytes(b"")
    file = ThoughtsFile(path)
    assert file.begin({"model": "other"}) == {}
    file.append([Query("a", "A", {})], ["one"])
    assert ThoughtsFile(path).begin({"model": "other"}) == {"a": "A"}
    with pytest.raises(ConfigError, match="was begun with model 'other'"):
        ThoughtsFile(path).begin(SETTINGS)
