import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks.sft import report
from experiments.benchmarks.sft.settings import RESULTS, Line, Order, Settings, Setup, Task

ROOT = Path(__file__).parent.parent.parent
ORDERS = [Order("random", "4 pairs", 4, 5, 1, 2, rounds=2), Order("cached", "8 pairs, cached", 8, 2, 0, 1)]
LINES = [
    Line("theirs", "sentence-transformers", ORDERS[0], "them"),
    Line("ours", "srch3", ORDERS[0], "us"),
    Line("theirs_cached", "sentence-transformers", ORDERS[1], "them, cached", 2),
    Line("ours_cached", "srch3", ORDERS[1], "us, cached", 64),
]


def figures(seconds: list[float], losses: list[float], tokens: int, padding: int, peak: float) -> dict[str, Any]:
    noted = {"seconds": seconds, "cpu_seconds": seconds, "losses": losses, "ndcg@10": 0.1 + losses[0] / 100}
    return noted | {"tokens": tokens, "padding": padding, "passes": 10, "held_mib": 100.0, "peak_mib": peak}


def summary() -> dict[str, Any]:
    settings = Settings(Setup("folder"), LINES, 1, Path("unused"), separately=False)
    measured = {
        "theirs": [
            figures([9.0, 1.0, 1.0, 2.0, 2.0], [3.0, 2.0, 1.0, 1.0, 1.0], 4000, 1000, 300.0),
            figures([9.0, 1.0, 1.0, 1.0, 1.0], [3.0, 2.0, 1.0, 1.0, 1.0], 4000, 1000, 250.0),
        ],
        "ours": [
            figures([9.0, 0.5, 0.5, 1.0, 1.0], [3.0, 2.0, 1.0, 1.5, 1.0], 3200, 200, 200.0),
            figures([9.0, 1.0, 1.0, 1.0, 1.0], [3.0, 2.0, 1.0, 1.5, 1.0], 3200, 200, 150.0),
        ],
        "theirs_cached": [figures([4.0, 4.0], [2.0, 1.0], 8000, 4000, 180.0)],
        "ours_cached": [figures([2.0, 2.0], [2.0, 1.0], 6400, 2400, 220.0)],
    }
    floor = {"forward": 0.0001, "forward_and_backward": 0.0003}
    return report.summarise(settings, {"held_out_pairs": 7}, floor, measured, 12.3)


def test_the_figures_by_hand() -> None:
    results = summary()
    random, cached = results["comparisons"]["random"], results["comparisons"]["cached"]
    assert results["lines"]["theirs"]["pairs_per_second_by_round"] == [pytest.approx(3.0), pytest.approx(4.0)]
    assert results["lines"]["ours"]["pairs_per_second_by_round"] == [pytest.approx(6.0), pytest.approx(4.0)]
    assert results["lines"]["theirs"]["pairs_per_second"] == pytest.approx(4.0)
    assert random["speed_ratio_by_round"] == [pytest.approx(2.0), pytest.approx(1.0)]
    assert random["speed_ratio"] == pytest.approx(1.5)
    assert cached["speed_ratio"] == pytest.approx(2.0)
    assert (random["first_loss_difference"], random["largest_loss_difference"]) == (0.0, 0.5)
    assert results["lines"]["theirs"]["padding"] == pytest.approx(0.25)
    assert results["lines"]["theirs"]["of_bare_model"] == pytest.approx(4.0 * 150 * 0.0003)
    assert results["lines"]["ours_cached"]["of_bare_model"] == pytest.approx(4.0 * 125 * (0.0003 + 0.0001))
    assert results["memory"]["ratio_of_training"] == pytest.approx(120 / 100)
    assert results["memory"]["ratio_of_process"] == pytest.approx(220 / 200)


def test_tables_hold_each_figure_in_its_place() -> None:
    lines = report.markdown(summary()).splitlines()
    assert lines[2].startswith("| **4 pairs** |")
    assert lines[4] == "| us | 4.0 | 1.50 | 0.1300 | 6.2% | 18% | 100 |"
    assert lines[7] == "| us, cached | 4.0 | 2.00 | 0.1200 | 37.5% | 20% | 120 |"
    assert "the first steps differ by at most 0e+00, those of all steps by at most 5e-01" in lines[9]
    assert "8 cached pairs takes 1.20 times the memory of 4 pairs" in lines[10]


def test_a_task_survives_its_way_into_another_process() -> None:
    task = Task(Setup("folder", seed=3), LINES[3], evaluate=True)
    assert Task.read(json.loads(json.dumps(task.plain()))) == task


@pytest.mark.slow
def test_the_smoke_version_trains_the_same_model_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.benchmarks.sft.run", "--smoke", "--output", str(tmp_path / "run")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    results = json.loads((tmp_path / "run-smoke" / "results.json").read_text())
    assert list(results["comparisons"]) == ["random", "bucketed", "cached"]
    for comparison in results["comparisons"].values():
        assert comparison["speed_ratio"] > 0
        assert comparison["first_loss_difference"] <= 1e-4
        assert comparison["largest_loss_difference"] <= 1e-3
        assert abs(comparison["ndcg_difference"]) <= 0.01
    lines = results["lines"]
    for line in lines.values():
        assert line["losses"][-1] < line["losses"][0]
        assert 0 < line["ndcg@10"] < 1
        assert line["peak_mib"] > 100
    assert lines["ours"]["padding"] < lines["theirs"]["padding"]
    assert lines["theirs"]["forward_passes_per_step"] == 2
    unpadded = {name: line["tokens_per_pair"] * (1 - line["padding"]) for name, line in lines.items()}
    for name in ("", "_bucketed", "_cached"):
        assert unpadded[f"ours{name}"] == pytest.approx(unpadded[f"theirs{name}"], abs=1e-6)
    assert all(cell in ran.stdout for cell in ("ratio", "nDCG@10", f"{lines['ours']['ndcg@10']:.4f}"))


def test_the_readme_says_what_the_results_say() -> None:
    results = json.loads(RESULTS.read_text())
    assert report.markdown(results) in (RESULTS.parent / "README.md").read_text()
