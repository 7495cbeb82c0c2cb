import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from srch3.environments.storage import (
    Generation,
    Identity,
    Snapshot,
    keep_only,
    open_generation,
    weights_digest,
    write_generation,
)
from srch3.errors import CheckpointError
from srch3.indexes import BaseIndex, ExactIndex, HnswIndex

ROOT = Path(__file__).parent.parent.parent
COUNT = 50
HERE = Identity("corpus", COUNT, "weights")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Disks need not keep up; says what was synced, and what was renamed."""
    happened: list[str] = []
    rename = Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: happened.append(str(Path(f"/proc/self/fd/{fd}").readlink())))

    def recorded(path: Path, target: Path) -> Path:
        happened.append("renamed")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", recorded)
    return happened


def vectors(seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(COUNT, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def snapshot(index: BaseIndex | None = None, **changes: Any) -> Snapshot:
    index = ExactIndex() if index is None else index
    index.build(vectors())
    tensors = {"stamps": torch.arange(COUNT), "frame": torch.eye(8)[:, ::2]}
    return Snapshot(index, 1, "corpus", 7, tensors, {"budget": {"share": 0.1}, "note": None})._replace(**changes)


def read(generation: Generation, index: BaseIndex | None = None) -> BaseIndex:
    index = ExactIndex() if index is None else index
    index.read(generation.index_folder)
    return index


@pytest.mark.parametrize("make", [ExactIndex, HnswIndex])
def test_what_was_written_is_read(tmp_path: Path, make: Callable[[], BaseIndex]) -> None:
    before = snapshot(make(), files={"corpus.jsonl": lambda path: path.write_text("{}\n")})
    generation = open_generation(tmp_path, write_generation(tmp_path, before, "weights"))
    generation.check(HERE)
    index = read(generation, make())
    assert torch.equal(index.vectors, before.index.vectors)
    for mine, other in zip(index.search(vectors(1), 9), before.index.search(vectors(1), 9), strict=True):
        assert torch.equal(mine, other)
    assert {name: tensor.tolist() for name, tensor in generation.tensors().items()} == {
        name: tensor.tolist() for name, tensor in before.tensors.items()
    }
    assert (generation.step, generation.values) == (7, {"budget": {"share": 0.1}, "note": None})
    assert (generation.folder / "corpus.jsonl").read_text() == "{}\n"


def test_everything_is_on_the_disk_before_a_generation_gets_its_name(tmp_path: Path, quick: list[str]) -> None:
    folder = tmp_path / "last.ckpt.index"
    written = folder / write_generation(folder, snapshot(), "weights")
    place = quick.index("renamed")
    expected = {written, *written.rglob("*")}
    assert len(expected) == 6
    assert {Path(path) for path in quick[:place]} == {
        folder / ".partial" / path.relative_to(written) for path in expected
    }
    assert set(quick[place + 1 :]) == {str(folder), str(tmp_path)}


def test_equal_states_are_one_generation_and_others_are_others(tmp_path: Path) -> None:
    names = [write_generation(tmp_path, snapshot(**changes), "weights") for changes in ({}, {}, {"step": 8})]
    names.append(write_generation(tmp_path, snapshot(), "other weights"))
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_only_the_generation_that_is_kept_stays(tmp_path: Path) -> None:
    old, new = (write_generation(tmp_path, snapshot(step=step), "weights") for step in (1, 2))
    (tmp_path / ".partial").mkdir()
    keep_only(tmp_path, new)
    assert [path.name for path in tmp_path.iterdir()] == [new]
    with pytest.raises(CheckpointError, match=f"expected the checkpoint's index in .*{old}; got no such folder; keep"):
        open_generation(tmp_path, old)
    keep_only(tmp_path, None)
    assert not tmp_path.exists()


def test_what_an_interrupted_call_left_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / ".partial" / "index").mkdir(parents=True)
    (tmp_path / ".partial" / "index" / "vectors.safetensors").write_text("half")
    name = write_generation(tmp_path, snapshot(), "weights")
    assert torch.equal(read(open_generation(tmp_path, name)).vectors, vectors())
    assert not (tmp_path / ".partial").exists()


def test_the_same_index_is_linked_and_not_written_again(tmp_path: Path) -> None:
    first = write_generation(tmp_path / "a", snapshot(), "weights")
    second = write_generation(tmp_path / "b", snapshot(step=8), "weights", tmp_path / "a" / first)
    generation = open_generation(tmp_path / "b", second)
    files = list((tmp_path / "a" / first / "index").iterdir())
    assert len(files) > 1
    assert all(path.samefile(generation.index_folder / path.name) for path in files)
    keep_only(tmp_path / "a", None)
    assert torch.equal(read(generation).vectors, vectors())
    assert generation.step == 8


@pytest.mark.parametrize("how", ["gone", "refused"])
def test_it_is_written_where_linking_is_not_possible(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a" / write_generation(tmp_path / "a", snapshot(), "weights")
    links: list[Path] = []

    def refuse(path: Path, target: Path) -> None:
        if links:
            raise OSError(1, "Operation not permitted")
        links.append(path)
        os.link(target, path)

    if how == "gone":
        keep_only(tmp_path / "a", None)
    else:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    generation = open_generation(tmp_path / "b", write_generation(tmp_path / "b", snapshot(), "weights", source))
    assert torch.equal(read(generation).vectors, vectors())
    assert all(path.stat().st_nlink == 1 for path in generation.index_folder.iterdir())


@pytest.mark.parametrize(
    "file", ["manifest.json", "state.safetensors", "index/index.json", "index/vectors.safetensors", "corpus.jsonl"]
)
@pytest.mark.parametrize("how", ["gone", "truncated", "flipped"])
def test_a_damaged_file_is_named(tmp_path: Path, file: str, how: str) -> None:
    saved = snapshot(files={"corpus.jsonl": lambda path: path.write_text("some documents")})
    name = write_generation(tmp_path, saved, "weights")
    path = tmp_path / name / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if how != "gone":
        path.write_bytes(bytes(content if how == "flipped" else content[:-1]))
    with pytest.raises(CheckpointError, match=rf"{Path(file).name}.* damaged, resume from another checkpoint"):
        read(open_generation(tmp_path, name))


def test_a_state_that_became_unreadable_after_the_check_is_named(tmp_path: Path) -> None:
    generation = open_generation(tmp_path, write_generation(tmp_path, snapshot(), "weights"))
    (generation.folder / "state.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        generation.tensors()


@pytest.mark.parametrize(
    ("present", "message"),
    [
        (
            HERE._replace(corpus="another"),
            r"\(50 documents, fingerprint corpus\); got 50 documents, fingerprint another",
        ),
        (HERE._replace(documents=49), "got 49 documents"),
        (HERE._replace(weights="of others"), "expected the weights that encoded .*digest weights.*; got others"),
    ],
)
def test_vectors_of_something_else_are_refused(tmp_path: Path, present: Identity, message: str) -> None:
    generation = open_generation(tmp_path, write_generation(tmp_path, snapshot(), "weights"))
    with pytest.raises(CheckpointError, match=message):
        generation.check(present)


def test_another_kind_of_index_is_refused(tmp_path: Path) -> None:
    generation = open_generation(tmp_path, write_generation(tmp_path, snapshot(), "weights"))
    with pytest.raises(CheckpointError, match="hnsw"):
        read(generation, HnswIndex())


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srch3.environments.storage.FORMAT", 9)
    name = write_generation(tmp_path, snapshot(), "weights")
    monkeypatch.undo()
    assert json.loads((tmp_path / name / "manifest.json").read_text())["format"] == 9
    with pytest.raises(CheckpointError, match=r"expected an index of format 1; got 9 in .*manifest\.json"):
        open_generation(tmp_path, name)


@pytest.mark.parametrize("name", ["../elsewhere", "", "0" * 31])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="got no such folder"):
        open_generation(tmp_path / "folder", name)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write_generation(tmp_path, snapshot(), "weights")

    def full(self: ExactIndex, folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ExactIndex, "write", full)
    with pytest.raises(CheckpointError, match=r"cannot write the index to .*: No space left on device; what was saved"):
        write_generation(tmp_path, snapshot(step=8), "weights")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_digest_tells_models_apart() -> None:
    weights = {"a": torch.randn(100, 30), "b": torch.zeros(3, dtype=torch.bfloat16), "c": torch.tensor(1)}
    digest = weights_digest(weights)
    assert digest == weights_digest(dict(reversed(weights.items()))) == weights_digest(weights | {"extra": "text"})
    others = [
        weights | {"a": weights["a"] + 1e-6},
        weights | {"a": weights["a"].view(30, 100)},
        weights | {"a": weights["a"].double()},
        weights | {"b": torch.tensor([0, 0, 1], dtype=torch.bfloat16)},
        {"a": weights["a"], "b": weights["b"], "d": weights["c"]},
        {name: weights[name] for name in "ab"},
        weights | {"a": torch.empty(0)},
    ]
    assert len({digest, *map(weights_digest, others)}) == len(others) + 1


def test_the_digest_reads_little_of_large_tensors() -> None:
    class Counted(torch.Tensor):
        moved = 0

        def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
            Counted.moved += self.numel()
            return self.as_subclass(torch.Tensor)

    weights_digest({"large": torch.zeros(10_000_000).as_subclass(Counted)})
    assert 200 <= Counted.moved <= 256


@pytest.mark.slow
def test_a_process_killed_at_any_point_leaves_a_complete_pair(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.environments.saver", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    found = [step for what, _, step in (line for line in lines if line[0] == "place")]
    assert found[-1] == "done"
    assert found.count("1") > 10
    assert found.count("2") > 2
    assert found == sorted(found)
    random_steps = [int(step) for what, step in (line for line in lines if line[0] == "random")]
    assert len(random_steps) == 15
    assert random_steps[-1] > 3
