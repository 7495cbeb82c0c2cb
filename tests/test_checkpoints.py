import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from srch3.checkpoints import AtomicCheckpointIO, check_stage, read_checkpoint, saved_stage
from srch3.errors import CheckpointError
from tests.programs import Line, OtherStage, SteeperLine


def content(size: int = 4, step: int = 1) -> dict[str, Any]:
    return {"state_dict": {"weight": torch.full((size,), float(step))}, "global_step": step}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]).returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(step=3), path)
    read = AtomicCheckpointIO().load_checkpoint(path)
    assert read["global_step"] == 3
    assert torch.equal(read["state_dict"]["weight"], torch.full((4,), 3.0))
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]


def test_a_full_disk_leaves_the_checkpoint_of_the_same_name_intact(small_disk: Path) -> None:
    path = small_disk / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(step=1), path)
    with pytest.raises(CheckpointError, match=rf"cannot write {path}: No space left on device.*last.ckpt is intact"):
        AtomicCheckpointIO().save_checkpoint(content(size=1_000_000, step=2), path)
    assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == 1
    assert [entry.name for entry in small_disk.iterdir()] == ["last.ckpt"]


def test_a_full_disk_names_the_last_good_checkpoint_of_another_name(small_disk: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(content(step=1), small_disk / "best.ckpt")
    with pytest.raises(CheckpointError, match=rf"resume with --ckpt_path {small_disk / 'best.ckpt'}$"):
        AtomicCheckpointIO().save_checkpoint(content(size=1_000_000), small_disk / "last.ckpt")


def refuse_to_sync(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_found_full_late_is_reported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse_to_sync)
    with pytest.raises(CheckpointError, match=r"No space left on device; no earlier checkpoint exists$"):
        AtomicCheckpointIO().save_checkpoint(content(), tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_is_not_the_disks_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="something else"):
        AtomicCheckpointIO().save_checkpoint(content(), tmp_path / "last.ckpt")


def test_a_process_killed_while_it_writes_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    program = f"""
        import os, signal, torch
        from srch3.checkpoints import AtomicCheckpointIO
        io = AtomicCheckpointIO()
        io.save_checkpoint({{"state_dict": {{}}, "global_step": 1}}, {str(path)!r})
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        io.save_checkpoint({{"state_dict": {{"w": torch.ones(100_000)}}, "global_step": 2}}, {str(path)!r})
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)])
    assert killed.returncode == -signal.SIGKILL
    assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == 1
    assert (tmp_path / ".last.ckpt.partial").stat().st_size > 100_000
    AtomicCheckpointIO().save_checkpoint(content(step=3), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_storage_options_are_refused_by_the_base_class(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="storage_options"):
        AtomicCheckpointIO().save_checkpoint(content(), tmp_path / "last.ckpt", storage_options={"a": 1})


def test_remote_checkpoints_go_lightnings_way() -> None:
    AtomicCheckpointIO().save_checkpoint(content(step=5), "memory://runs/last.ckpt")
    assert AtomicCheckpointIO().load_checkpoint("memory://runs/last.ckpt")["global_step"] == 5


@pytest.mark.parametrize("weights_only", [None, True, False])
def test_objects_other_than_plain_data_are_never_read(tmp_path: Path, weights_only: bool | None) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "callbacks": {"folder": Path("here")}}, path)
    with pytest.raises(CheckpointError, match=r"last.ckpt holds an object of pathlib.*; only tensors and plain values"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=weights_only)


@pytest.mark.parametrize(
    "damage", [b"", b"not a checkpoint", pickle.dumps([1, 2], protocol=2)], ids=["empty", "text", "list"]
)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"ckpt_path: .*last.ckpt") as refusal:
        read_checkpoint(path)
    assert "\n" not in str(refusal.value)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"last.ckpt is damaged"):
        read_checkpoint(path)


def test_weights_alone_are_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match="no state_dict"):
        read_checkpoint(tmp_path / "model.ckpt")


def test_an_absent_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent.ckpt, which is not a file"):
        read_checkpoint(tmp_path / "absent.ckpt")
    with pytest.raises(CheckpointError, match="which is not a file"):
        read_checkpoint(tmp_path)


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "last.ckpt").touch()
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(CheckpointError, match=r"cannot read .*last.ckpt: Permission denied"):
        read_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("origin", "stage"),
    [
        ({"hyper_parameters": {"_class_path": "some.where.Line"}}, "Line"),
        ({"srch3": {"stage": "Line", "format": 1}}, "Line"),
        ({"hyper_parameters": {"lr": 1.0}}, None),
        ({}, None),
    ],
)
def test_a_checkpoint_says_its_stage(origin: dict[str, Any], stage: str | None) -> None:
    assert saved_stage({**content(), **origin}) == stage


def test_another_stage_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    torch.save({**content(), "srch3": {"stage": "Line", "format": 1}}, path)
    check_stage(path, Line)
    check_stage(path, SteeperLine)
    with pytest.raises(CheckpointError, match=rf"saved by Line, but `model` is OtherStage.*init_from: {path}"):
        check_stage(path, OtherStage)


def test_a_checkpoint_without_a_stage_is_let_through(tmp_path: Path) -> None:
    path = tmp_path / "foreign.ckpt"
    torch.save(content(), path)
    assert saved_stage(read_checkpoint(path)) is None
    check_stage(path, OtherStage)
