import csv
import json
import math
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import srch3
from experiments.quickstart import run as quickstart
from experiments.quickstart import smoke
from experiments.quickstart.curves import read_curves, series
from experiments.quickstart.report import CONTROLS, METRICS, ROWS, figures_of
from srch3 import cli
from srch3.data import PythonSourceDataModule
from tests.experiments.lucene import lucene_bm25

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The stages that were started, in order."""
    processes: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def note(command: Any, **settings: Any) -> subprocess.Popen[bytes]:
        process = start(command, **settings)
        if "-m" in command:  # the standard library starts processes too, to ask about the machine
            processes.append(process)
        return process

    monkeypatch.setattr(subprocess, "Popen", note)
    return processes


def kill_once_there(path: Path, started: list[subprocess.Popen[bytes]]) -> threading.Thread:
    """Kills the last started process as soon as a file appears."""

    def watch() -> None:
        deadline = time.monotonic() + 80
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(started[-1].pid, signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def configs_of(started: list[subprocess.Popen[bytes]]) -> list[str]:
    return [Path(command[5]).stem if command[2] == "srch3" else "evaluate" for command in (p.args for p in started)]


def mean_of_bm25() -> float:
    data = PythonSourceDataModule(roots=json.loads(smoke.ROOTS), test_roots=json.loads(smoke.TEST_ROOTS), cache_dir="")
    queries, corpus = data.queries("test"), data.corpus("test")
    total = 0.0
    for query, scores in zip(queries, lucene_bm25([query.text for query in queries], corpus.texts), strict=True):
        rank = sorted(range(len(scores)), key=lambda row: (-round(scores[row], 5), row)).index(corpus.row(query.id)) + 1
        total += 1 / math.log2(rank + 1) if rank <= 10 else 0.0
    return total / len(queries)


def check_figures(report: dict[str, Any], output: Path) -> None:
    for name in (*ROWS, *CONTROLS):
        figures = figures_of(report, name)
        assert set(figures) == {"ndcg@10", "mrr@10", "recall@100"}
        assert all(0 <= figure <= 1 for figure in figures.values())
    with (output / "evaluate" / "rl" / "version_0" / "metrics.csv").open() as file:
        (logged,) = csv.DictReader(file)
    for mode in ("thinking", "direct", "empty", "shuffled"):
        for metric in METRICS:
            assert float(logged[f"test/{mode}/{metric}"]) == pytest.approx(report["rl"][mode][metric], abs=1e-6)
    assert report["bm25"]["ndcg@10"] == pytest.approx(mean_of_bm25(), abs=1e-3)


@pytest.mark.slow
def test_the_smoke_version_survives_a_kill_and_then_has_nothing_left_to_do(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    arguments = ["--smoke", "--output", str(output)]
    killer = kill_once_there(output / "rl" / "last.ckpt", started)
    assert quickstart.main(arguments) == 1
    killer.join()
    assert configs_of(started) == ["base", "sft", "rl"]
    assert "stage rl failed (killed by signal 9)" in capsys.readouterr().err
    started.clear()

    assert quickstart.main(arguments) == 0
    assert configs_of(started) == ["rl", "direct", "evaluate"]
    assert f"--ckpt_path {output / 'rl' / 'last.ckpt'}" in " ".join(map(str, started[0].args))
    assert torch.load(output / "rl" / "last.ckpt", weights_only=True)["global_step"] == 4
    steps, _ = series(read_curves(output / "rl"), "train/reward")
    assert steps[-3:] == [1, 2, 3]
    started.clear()

    report = json.loads((output / "report.json").read_text())
    check_figures(report, output)
    assert report["stages"]["rl"]["attempts"] == 2
    assert all(cost["seconds"] > 0 and cost["peak_mib"] > 50 for cost in report["stages"].values())
    shares = report["refreshed_share"]["per_step"]
    assert all(0 <= share <= 1 for share in shares)
    assert any(share > 0 for share in shares)
    assert (output / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((output / "evaluate" / "examples.json").read_text())) == 5

    (shown,) = re.findall(r"^search it yourself: (.*) && ", (output / "report.txt").read_text(), re.MULTILINE)
    _, _, _, *words = shlex.split(shown)
    cli.main([*words, "--device", "cpu"])
    assert len(srch3.Searcher.load(output / "index").search("parse a date", k=3).hits) == 3

    assert quickstart.main(arguments) == 0
    assert started == []
    again = json.loads((output / "report.json").read_text())
    assert again == report
    assert report["findings"][0]["sentence"] in " ".join((output / "report.txt").read_text().split())
