import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks.grpo import report
from experiments.benchmarks.grpo.reward import share_of_vowels
from experiments.benchmarks.grpo.settings import RESULTS, Line, Settings, Setup, Shape, Task, parse

ROOT = Path(__file__).parent.parent.parent
SHAPE = Shape("short", "short prompts", 48)
LINES = [
    Line("theirs", "trl", SHAPE, "TRL"),
    Line("theirs_parts", "trl", SHAPE, "TRL, 8 completions at once", 8),
    Line("ours", "srch3", SHAPE, "us"),
    Line("ours_cached", "srch3", SHAPE, "us, cached", 256),
]


def figures(seconds: list[float], tokens: int, padding: int, peak: float, lengths: list[float]) -> dict[str, Any]:
    noted = {
        "seconds": seconds,
        "cpu_seconds": [2 * each for each in seconds],
        "losses": [0.0] * len(seconds),
        "passes": 10,
    }
    return noted | {"tokens": tokens, "padding": padding, "held_mib": 100.0, "peak_mib": peak, "lengths": lengths}


def summary() -> dict[str, Any]:
    settings = Settings(Setup("folder", steps=4, warmup=1), LINES, 2, 1, Path("unused"), separately=False)
    measured = {
        "theirs": [figures([9, 4, 5, 9], 400, 100, 300, [8, 8]), figures([9, 8, 8, 8], 400, 100, 310, [6, 6])],
        "theirs_parts": [figures([9, 9, 9, 9], 400, 100, 200, [8]), figures([9, 9, 9, 9], 400, 100, 190, [8])],
        "ours": [figures([9, 2, 2, 2], 200, 10, 150, [7]), figures([9, 2, 2, 2], 200, 10, 140, [7])],
        "ours_cached": [figures([9, 5, 5, 5], 300, 10, 120, [7]), figures([9, 5, 5, 5], 300, 10, 110, [7])],
    }
    case = {"their_loss": 0.5, "our_loss": 0.25, "clipped": 0.125, "loss_difference": 0.25, "gradient_difference": 2e-7}
    return report.summarise(settings, {"parameters": 7}, {"`grpo`": case}, measured, 12.3)


def test_the_figures_by_hand() -> None:
    results = summary()
    comparison, lines = results["comparisons"]["short"], results["lines"]
    assert lines["theirs"]["seconds_by_round"] == [5.0, 8.0]
    assert lines["theirs"]["seconds"] == 6.5
    assert lines["theirs"]["training_mib"] == 210.0
    assert lines["theirs"]["completion_tokens"] == 7.0
    assert lines["ours"]["tokens"] == 50.0
    assert lines["ours"]["padding"] == 0.05
    assert (comparison["fastest"], comparison["thriftiest"]) == ("TRL", "TRL, 8 completions at once")
    assert comparison["speed_ratio"] == comparison["cpu_ratio"] == [3.25, 1.3]
    assert comparison["speed_ratio_by_round"] == [[2.5, 4.0], [1.0, 1.6]]
    assert comparison["memory_ratio"] == [0.5, 0.2]
    assert comparison["process_memory_ratio"] == [0.75, 0.6]


def test_tables_hold_each_figure_in_its_place() -> None:
    lines = report.markdown(summary()).splitlines()
    assert "| `grpo` | 0.500000 | 0.250000 | 12% | 2e-07 |" in lines
    assert "| **short prompts** | | | | | | | | |" in lines
    assert "| us | 2.00 | 3.25 | 4.00 | 3.25 | 50 | 50 | 5% | 7.0 |" in lines
    assert "Losses differ by at most 2e-01" in lines[-3]
    assert "1.00 to 4.00 times as fast" in lines[-2]


def test_a_task_survives_its_way_into_another_process() -> None:
    task = Task(Setup("folder", seed=3), LINES[3])
    assert Task.read(json.loads(json.dumps(task.plain()))) == task


def test_every_shape_is_measured_on_both_sides() -> None:
    settings = parse([])
    assert [shape.prompt_tokens for shape in settings.shapes] == [48, 256, 256]
    for shape in settings.shapes:
        assert [line.side for line in settings.lines if line.shape == shape] == ["trl", "trl", "srch3", "srch3"]


def test_the_reward_by_hand() -> None:
    assert share_of_vowels([" abe ", "", "xyz"]) == [pytest.approx(2 / 3), 0.0, 0.0]


def test_the_readme_has_the_tables_of_the_results() -> None:
    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    assert report.markdown(json.loads(RESULTS.read_text(encoding="utf-8"))) in readme


@pytest.mark.slow
def test_the_smoke_version_finds_the_same_loss_and_gradient_and_takes_steps(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.benchmarks.grpo.run", "--smoke", "--output", str(tmp_path / "run")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    results = json.loads((tmp_path / "run-smoke" / "results.json").read_text())
    cases = results["equality"]
    assert len(cases) == 8
    for case in cases.values():
        assert case["loss_difference"] <= 1e-5
        assert case["gradient_difference"] <= 1e-5
        assert case["clipped"] > 0
    losses = sorted(case["our_loss"] for case in cases.values())
    assert min(after - before for before, after in pairwise(losses)) > 1e-3
    for line in results["lines"].values():
        assert line["seconds"] > 0
        assert len(line["losses"]) == 3
        assert 1 < line["completion_tokens"] <= 12
