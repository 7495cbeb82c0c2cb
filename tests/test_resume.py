import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from srch3.checkpoints import read_checkpoint
from srch3.cli import main
from tests.runs import make_beir_folder, small, witnessed

ROOT = Path(__file__).parent.parent
STEPS = 12
PATIENCE = 300
"""Seconds after which a process is taken to hang; a busy machine needs some."""
LEFT_OUT = {"env/refresh_seconds", "env/audit_seconds", "epoch"}
"""Clocks, and a label: under ``max_steps``, Lightning counts one epoch less after it resumes at the end of one."""


def stage_two(witness: str, *more: str) -> list[str]:
    """A run over several epochs, validated in mid-epoch, with a stale index that is audited."""
    settings = [
        f"--trainer.max_steps={STEPS}",
        "--trainer.val_check_interval=5",
        "--data.init_args.thoughts=KeywordThoughts",
        "--environment.init_args.audit_every_n_steps=4",
        "--environment.init_args.budget.init_args.share=0.2",
        "--last_checkpoint.every_n_train_steps=1",
        "--trainer.callbacks=tests.runs.Witness",
        f"--trainer.callbacks.folder={witness}",
        "--trainer.callbacks.index=true",
    ]
    return small("fit", "rl", Path("beir"), Path("model"), *settings, *more)


def start(args: list[str]) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "srch3", *args],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def kill_in_mid_run(process: "subprocess.Popen[str]", witness: Path, steps: int) -> None:
    """Ends a process, without warning, some time after so many steps."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if witness.is_file() and len(witness.read_text().splitlines()) >= steps:
            break
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended by itself"


def rows(version: int) -> dict[tuple[str, bool], dict[str, str]]:
    """What the CSV file of a run has, by step, for training and for validation."""
    with Path(f"runs/version_{version}/metrics.csv").open() as file:
        content = list(csv.DictReader(file))
    return {
        (row["step"], bool(row["train/loss"])): {k: v for k, v in row.items() if v and k not in LEFT_OUT}
        for row in content
    }


def steps_of(records: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {record["step"]: record for record in records if "step" in record}


@pytest.mark.slow
def test_a_killed_stage_two_resumes_as_if_nothing_had_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_beir_folder(tmp_path / "beir", documents=60)
    main(stage_two("whole"))
    kill_in_mid_run(start(stage_two("killed")), tmp_path / "killed" / "rank0.jsonl", steps=4)
    last = "runs/version_1/checkpoints/last.ckpt"
    saved = read_checkpoint(Path(last))["global_step"]
    assert 3 <= saved < STEPS
    resumed = start(stage_two("resumed", "--ckpt_path", last))
    _, errors = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0, errors

    whole, again = steps_of(witnessed(tmp_path / "whole")), steps_of(witnessed(tmp_path / "resumed"))
    assert list(again) == list(range(saved + 1, STEPS + 1))
    for step, record in again.items():
        assert record == whole[step], f"queries, loss, vectors or stamps differ at step {step}"
    assert len({record["loss"] for record in whole.values()}) == STEPS
    assert len({str(record["stamps"]) for record in whole.values()}) == STEPS
    before = steps_of(witnessed(tmp_path / "killed"))
    assert all(record == whole[step] for step, record in before.items())

    written, expected = rows(2), rows(0)
    assert set(written) == {place for place in expected if int(place[0]) >= saved}
    for place, row in written.items():
        assert row == expected[place], place
