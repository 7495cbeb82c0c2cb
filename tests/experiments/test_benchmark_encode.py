import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.benchmarks.encode import measure, report, run
from experiments.benchmarks.encode.prepare import Texts
from experiments.benchmarks.encode.settings import RESULTS, Model, Settings

MODEL = Model("tiny", 32, 2, 2, 2, 96, 600, 3, 10)


def noted(seconds: list[float], cosine: float, ndcg: float) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "cpu_seconds": [2 * second for second in seconds],
        "least_cosine": cosine,
        "ndcg@10": ndcg,
    }


def summary(default: str = "bfloat16") -> dict[str, Any]:
    settings = Settings([MODEL], 2, 1, 0, True, Path("unused"), Path("unused"))
    floor = [{"tokens": 1000.0, "flops": 40_000.0}, {"tokens": 1000.0, "flops": 40_000.0}]
    figures = {
        "default": default,
        "documents": 10,
        "tokens": 1000,
        "lengths": {"p50": 100},
        "parameters": 60,
        "parameters_of_layers": 10,
        "floor": {"float32": floor, "bfloat16": [{"tokens": 4000.0, "flops": 160_000.0}] * 2},
        "sentence-transformers float32": noted([4.0, 6.0], 1.0, 0.5),
        "srch3 float32": noted([2.0, 2.0], 0.99999, 0.5001),
        "sentence-transformers bfloat16": noted([2.0, 2.0], 0.9995, 0.5002),
        "srch3 bfloat16": noted([1.0, 0.5], 0.9991, 0.4999),
    }
    return report.summarise(settings, {"tiny": figures}, 12.3, [0.1, 0.2])


def test_the_figures_by_hand() -> None:
    model = summary()["models"]["tiny"]
    assert model["equal_precision"]["float32"]["speed_ratio_by_round"] == [2.0, 3.0]
    assert model["equal_precision"]["float32"]["speed_ratio"] == 2.5
    assert model["equal_precision"]["bfloat16"]["cpu_speed_ratio"] == 3.0
    assert model["by_default"]["speed_ratio_by_round"] == [4.0, 12.0]
    line = model["lines"]["srch3 float32"]
    assert line["documents_per_second"] == pytest.approx(5.0)
    assert line["tokens_per_second"] == pytest.approx(500.0)
    assert line["of_bare_model"] == pytest.approx(0.5)
    assert line["of_peak"] == pytest.approx(2 * 10 * 500 / 40_000)
    assert line["cpu_seconds"] == pytest.approx(4.0)


def test_tables_hold_each_figure_in_its_place() -> None:
    lines = report.markdown(summary()).splitlines()
    assert lines[0] == "**32 wide, 2 layers, trained for 3 steps; 10 documents**"
    assert lines[4].startswith("| sentence-transformers, float32, the default | 2.1 | 208 | 1 |  | 1 |")
    assert lines[5] == "| srch3, float32 | 5.0 | 500 | 2.50 | 2.00 to 3.00 | 2.50 | 50% | 25% | 0.99999 | 0.5001 |"
    assert lines[7].startswith("| srch3, bfloat16, the default | 15.0 | 1,500 | 3.00 |")
    assert "(bfloat16) encodes 8.00 times as fast as theirs (float32), 4.00 to 12.00 by round" in lines[9]
    assert lines[9].endswith("1.5 was the aim.")
    assert lines[10] == "- The four nDCG@10 are at most 0.0003 apart."


def test_where_float32_is_the_default_it_is_what_is_compared() -> None:
    model = summary("float32")["models"]["tiny"]
    assert model["by_default"] == model["equal_precision"]["float32"]
    assert "more than 1 was the aim" in report.markdown(summary("float32"))


def test_cosine_and_ndcg_by_hand() -> None:
    one = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]], np.float32)
    other = np.array([[1.0, 0.0], [0.0, 3.0], [1.0, 0.0]], np.float32)
    assert measure.least_cosine(one, other) == pytest.approx(0.5**0.5)
    texts = Texts(["a", "b", "c"], ["x", "y", "z"])
    assert measure.ndcg(one, one, texts) == pytest.approx(1.0)
    assert measure.ndcg(one[[1, 0, 2]], one, texts) == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


def test_the_smoke_version_finds_the_same_embeddings_on_both_sides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    try:
        assert run.main(["--smoke", "--output", str(tmp_path / "run")]) == 0
    finally:
        torch.set_num_threads(threads)
    results = json.loads((tmp_path / "run-smoke" / "results.json").read_text())
    model = results["models"]["tiny"]
    assert len(model["lines"]) == 4
    for line in model["lines"].values():
        assert line["least_cosine"] > 0.999
        assert 0 < line["ndcg@10"] < 1
        assert line["tokens_per_second"] > 0
    assert model["by_default"]["speed_ratio"] > 0
    assert model["title"] in capsys.readouterr().out


def test_the_published_figures_keep_their_promise() -> None:
    results = json.loads(RESULTS.read_text())
    for model in results["models"].values():
        least = report.TARGET if model["default"] == "bfloat16" else 1.0
        assert model["by_default"]["speed_ratio"] >= least
        assert all(equal["speed_ratio"] > 1 for equal in model["equal_precision"].values())
        assert all(line["least_cosine"] >= 0.999 for line in model["lines"].values())
        found = [line["ndcg@10"] for line in model["lines"].values() if line.get("ndcg@10") is not None]
        assert not found or max(found) - min(found) <= 0.001


def test_the_readme_says_what_the_results_say() -> None:
    results = json.loads(RESULTS.read_text())
    assert report.markdown(results) in (RESULTS.parent / "README.md").read_text()
