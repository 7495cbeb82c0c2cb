import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from srch3.data.cache import cache_root, cached


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "srch3"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").write_text("one")
    return tmp_path / "source"


class Maker:
    def __init__(self, duration: float = 0) -> None:
        self.calls = 0
        self.duration = duration

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "half").write_text("")
        time.sleep(self.duration)
        (folder / "content").write_text(f"made {self.calls}")


def test_is_made_once(source: Path) -> None:
    make = Maker()
    folders = {cached("thing", [source], {"a": 1}, make) for _ in range(3)}
    assert make.calls == 1
    assert [(folder / "content").read_text() for folder in folders] == ["made 1"]


def change_time(source: Path) -> None:
    os.utime(source, ns=(0, source.stat().st_mtime_ns + 1))


def change_size(source: Path) -> None:
    times = source.stat()
    source.write_text("longer")
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("change", [change_time, change_size, Path.unlink])
def test_a_changed_source_makes_another(source: Path, change: Callable[[Path], None]) -> None:
    make = Maker()
    before = cached("thing", [source], None, make)
    change(source)
    assert cached("thing", [source], None, make) != before
    assert make.calls == 2


def test_paths_kind_and_settings_count(source: Path, tmp_path: Path) -> None:
    make = Maker()
    source.with_name("second").write_text("two")
    second = source.with_name("second")
    (tmp_path / "link").symlink_to(source)
    asked = [
        ("thing", [source], None), ("thing", [source], 1), ("other", [source], None),
        ("thing", [second], None), ("thing", [source, second], None), ("thing", [second, source], None),
    ]  # fmt: skip
    assert len({cached(*each, make) for each in asked}) == make.calls == 6
    assert cached("thing", [tmp_path / "link"], None, make) == cached("thing", [source], None, make)


def test_of_those_who_ask_at_once_one_makes_it(source: Path) -> None:
    make, found = Maker(duration=0.2), []
    threads = [
        threading.Thread(target=lambda: found.append((cached("thing", [source], None, make) / "content").read_text()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["made 1"] * 4
    assert make.calls == 1


def test_what_fails_leaves_nothing(source: Path, root: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        cached("thing", [source], None, fail)
    assert [path.suffix for path in root.iterdir()] in ([], [".lock"])
    assert (cached("thing", [source], None, Maker()) / "content").read_text() == "made 1"


def test_what_a_killed_process_left_is_not_used(source: Path) -> None:
    folder = cached("thing", [source], None, Maker())
    partial = folder.with_suffix(".partial")
    folder.rename(partial)
    (partial / "content").unlink()
    (partial / "stale").write_text("")
    again = cached("thing", [source], None, Maker())
    assert again == folder
    assert sorted(path.name for path in again.iterdir()) == ["content", "half"]
    assert not partial.exists()


def test_the_place_is_that_of_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_root() == Path(os.environ["HF_DATASETS_CACHE"]) / "srch3"
    monkeypatch.delenv("HF_DATASETS_CACHE")
    monkeypatch.setenv("HF_HOME", "~/hf")
    assert cache_root() == Path.home() / "hf/datasets/srch3"
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_root() == Path("/xdg/huggingface/datasets/srch3")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache/huggingface/datasets/srch3"
