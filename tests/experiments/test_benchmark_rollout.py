import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.benchmarks.rollout import measure, report, run, sides
from experiments.benchmarks.rollout.settings import RESULTS, Model, Settings, Shape
from experiments.benchmarks.rollout.task import Lengths, make_embedder, make_prompts
from srch3.backbones import ReasoningEmbedder

MODEL = Model(32, 1, 2, 300)
SHAPE = Shape(3, 4, 16, 2, 6)


@pytest.fixture(scope="module")
def embedder() -> ReasoningEmbedder:
    return make_embedder(MODEL, 6, 0, "cpu")


def test_both_sides_write_completions_of_all_allowed_lengths(embedder: ReasoningEmbedder) -> None:
    lengths, shape = Lengths(embedder), Shape(4, 8, 16, 2, 6)
    prompts = make_prompts(MODEL, shape, 0)
    for side in (sides.ours, sides.theirs):
        counts = torch.zeros(7)
        for seed in range(20):
            lengths.begin(shape)
            wrote = side(embedder, prompts, shape, seed)
            assert all(row[-1] == embedder.embed_token_id for row in wrote.tokens)
            counts += torch.tensor([len(row) for row in wrote.tokens]).bincount(minlength=7)
        assert counts[:2].tolist() == [0, 0]
        assert ((counts[2:] - 128) ** 2 / 128).sum() < 18.5  # the 0.999 quantile with 4 degrees of freedom
    lengths.begin(endless := Shape(2, 2, 16, 6, 6))
    assert [len(row) for row in sides.ours(embedder, prompts[:2], endless, 0).tokens] == [6] * 4
    lengths.begin(endless)
    wrote = sides.theirs(embedder, prompts[:2], endless, 0)
    assert (wrote.useful, [len(row) for row in wrote.tokens]) == (24, [6] * 4)


def test_bytes_that_must_be_read_by_hand(embedder: ReasoningEmbedder) -> None:
    weights = 4 * sum(parameter.numel() for parameter in embedder.causal_lm.parameters())
    key_and_value = 2 * 32 * 4
    cached = (2 * 16 + 1 * 8) + (2 * 16 + 2 * 5)
    assert measure.bytes_read(embedder, [(2, 16), (8, 1), (5, 1)]) == 2 * weights + cached * key_and_value


def figures(seconds: list[float], tokens: list[float]) -> dict[str, list[float]]:
    return {"seconds": seconds, "cpu_seconds": [2 * s for s in seconds], "tokens": tokens, "computed": [300.0, 300.0]}


def summary() -> dict[str, Any]:
    settings = Settings([MODEL], [SHAPE, Shape(1, 1, 8, 6, 6, greedy=True)], 2, 1, 0, "cpu", Path("unused"))
    line = {
        "shape": SHAPE._asdict(),
        "ours": figures([1.0, 2.0], [60.0, 60.0]),
        "theirs": figures([3.0, 4.0], [60.0, 40.0]),
        "bare_seconds": [0.5, 0.5],
        "stages": {"attention": 1.0, "rest": 3.0},
        "bandwidth": [0.25, 0.25],
    }
    return report.summarise(settings, {MODEL.name: [line, line | {"same_tokens": True}]}, 12.3, [0.1, 0.2])


def test_the_figures_by_hand() -> None:
    line = summary()["models"][MODEL.name][0]
    assert line["speed_ratio_by_round"] == [pytest.approx(3.0), pytest.approx(3.0)]
    assert line["tokens_per_second"] == {"ours": pytest.approx(45.0), "theirs": pytest.approx(15.0)}
    assert line["cpu_speed_ratio"] == pytest.approx(3.0)
    assert line["bare_model"] == pytest.approx(0.375)
    assert line["computed_per_token"] == {"ours": 5.0, "theirs": 6.0}
    assert line["mean_length"] == {"ours": 5.0, "theirs": pytest.approx(100 / 24)}
    assert line["stages"] == {"attention": 0.25, "rest": 0.75}
    assert line["bandwidth"] == 0.25


def test_tables_hold_each_figure_in_its_place() -> None:
    lines = report.markdown(summary()).splitlines()
    assert lines[0] == "**32 wide, 1 layers, 300 tokens**"
    assert lines[4] == "| 3 x 4, 16 to 2-6 | 15 | 45 | 3.00 | 3.00 to 3.00 | 38% | 25% |"
    assert lines[5].startswith("| 1 x 1, 8 to 6, greedy |")
    assert "| 32 wide, 1 layers, 300 tokens: 3 x 4, 16 to 2-6 | 25% | 75% |" in lines
    assert lines[-1] == "- Greedy completions are the same, token by token, in 1 of 1 comparisons."


def test_the_smoke_version_measures_every_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        assert run.main(["--smoke", "--device", "cpu", "--output", str(tmp_path / "run")]) == 0
    finally:
        torch.set_num_threads(threads)
    results = json.loads((tmp_path / "run-smoke" / "results.json").read_text())
    (lines,) = results["models"].values()
    assert len(lines) == 3
    for line in lines:
        assert line["speed_ratio"] > 0
        assert line["bare_model"] > 0
        assert sum(line["stages"].values()) == pytest.approx(1)
        assert line["stages"]["attention"] > 0
    assert lines[0]["computed_per_token"]["ours"] < lines[0]["computed_per_token"]["theirs"]
    assert lines[2]["same_tokens"]
    assert lines[0]["name"] in capsys.readouterr().out


def test_the_readme_says_what_the_results_say() -> None:
    results = json.loads(RESULTS.read_text())
    assert report.markdown(results) in (RESULTS.parent / "README.md").read_text()
