import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from experiments.benchmarks.environment import lines, million, report, run, settings, shadows
from experiments.benchmarks.environment.drifting import Drifting
from experiments.benchmarks.environment.lines import DEFAULT, FULL, NEVER, Line
from experiments.benchmarks.environment.settings import RESULTS
from experiments.benchmarks.environment.shadows import Memo, Shadow
from experiments.benchmarks.index.measure import draw
from experiments.benchmarks.index.settings import Size
from srch3.environments.correction import RidgeCorrection
from srch3.types import Observation, Pending, Searcher


def vectors(count: int, width: int = 8, seed: int = 0) -> Tensor:
    return normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


# Lines


def test_the_rotation_is_found_and_keeps_lengths() -> None:
    thought = vectors(3000)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1))).Q
    correction = lines.RotationCorrection()
    correction.prior = 1e-9
    first = correction.fit(thought, thought @ rotation)
    assert first is not None
    torch.testing.assert_close(first.float(), rotation, atol=1e-5, rtol=0)
    correction.prior = 1e9
    still = correction.fit(thought, thought @ rotation)
    assert still is not None
    torch.testing.assert_close(still, torch.eye(8, dtype=torch.float64), atol=1e-5, rtol=0)


def test_every_policy_is_compared_with_and_without_correction() -> None:
    small, large = ([line.name for line in lines.every_line(smallest)] for smallest in (True, False))
    assert set(large) <= set(small)
    assert len(small) == len(set(small)) == 34
    for policy in lines.BUDGETED:
        assert {f"{policy} 5%", f"{policy} 5% ridge"} <= set(large)
        assert f"{policy} 20% ridge" in small
    assert {DEFAULT.name, "contested 1% ridge", "contested 5% rotation", "contested 5% ridge hnsw"} <= set(large)
    assert {"never", "full"} <= set(large)


def test_patterns_choose_lines_and_audits_end_with_the_last_step() -> None:
    options = ["--model", "x", "--sizes", "20", "10", "--rates", "1e-4", "--lines", "never", "contested 20*"]
    given = settings.parse([*options, "--steps", "11", "--audits", "3"])
    assert [[line.name for line in training.lines] for training in given.trainings] == [
        ["never", "contested 20%", "contested 20% ridge"],
        ["never"],
    ]
    assert [training.documents for training in given.trainings] == [10, 20]
    assert given.trainings[0].audited == [3, 7, 10]
    with pytest.raises(SystemExit):
        settings.parse([])


# Shadows


class Model:
    """Documents turn by a tenth of a circle with every step."""

    def __init__(self, count: int) -> None:
        self.start, self.turns, self.asked = vectors(count), 0, 0

    def now(self) -> Tensor:
        angle = torch.tensor(self.turns * math.pi / 5)
        turned = self.start.clone()
        turned[:, 0] = angle.cos() * self.start[:, 0] - angle.sin() * self.start[:, 1]
        turned[:, 1] = angle.sin() * self.start[:, 0] + angle.cos() * self.start[:, 1]
        return turned

    def encode(self, rows: Tensor) -> Tensor:
        self.asked += len(rows)
        return self.now()[rows]


def test_a_document_is_encoded_once_per_step_whoever_asks() -> None:
    model, ticks = Model(10), iter(range(100))
    memo = Memo(model.encode, 10, lambda: float(next(ticks)))
    torch.testing.assert_close(memo(torch.tensor([3, 1])), model.start[[3, 1]])
    torch.testing.assert_close(memo(torch.tensor([1, 5, 3])), model.start[[1, 5, 3]])
    assert memo(torch.tensor([5])).shape == (1, 8)
    assert (memo.documents, memo.seconds, memo.seconds_per_document) == (3, 2.0, pytest.approx(2 / 3))
    assert memo.known.nonzero()[:, 0].tolist() == [1, 3, 5]
    model.turns = 1
    memo.forget()
    torch.testing.assert_close(memo(torch.tensor([1])), model.now()[[1]])
    assert model.asked == 4


def pending(model: Model) -> Pending:
    return Pending(model.now()[:2], torch.arange(2), [{0: 1}, {1: 1}], 5)


def followed(line: Line, steps: int) -> tuple[Shadow, Model, Memo]:
    model, ticks = Model(40), iter(range(10**6))
    memo = Memo(model.encode, 40, lambda: float(next(ticks)))
    shadow = Shadow(line, million.Numbered(40), model.now(), 0)
    for step in range(steps):
        model.turns = step
        memo.forget()
        shadow.advance(pending(model), memo, step)
    return shadow, model, memo


def test_a_shadow_counts_documents_and_all_seconds_but_those_of_encoding() -> None:
    shadow, model, memo = followed(Line("contested", 0.1, "ridge"), 3)
    assert shadow.documents == [4, 4]
    assert shadow.seconds == [2.0, 2.0]
    assert (memo.documents, model.asked, memo.seconds) == (8, 8, 2.0)
    never, model, _ = followed(NEVER, 3)
    assert (never.documents, model.asked) == ([0, 0], 0)


def test_an_audit_compares_a_shadow_with_the_present_vectors() -> None:
    def score(index: Searcher) -> Tensor:
        return index.search(model.now()[:2], 1).scores[:, 0]

    shadow, model, _ = followed(NEVER, 2)
    memo = Memo(model.encode, 40, lambda: 0.0)
    hits = shadow.state.searcher.search(model.now()[:2], 5)
    observation = Observation(model.now()[:2], hits, torch.arange(2), score)
    shadow.audit(observation, memo(torch.arange(40)))
    (audit,) = shadow.audits
    actual = (model.now()[:2] @ model.start.T).max(dim=1).values
    assert audit["reward_mae"] == pytest.approx(float((1 - actual).mean()), abs=1e-6)
    assert audit["reward_bias"] == pytest.approx(-audit["reward_mae"], abs=1e-6)
    planar = (model.start[:, :2] ** 2).sum(dim=1)
    assert audit["drift"] == pytest.approx(float(planar.mean()) * (1 - math.cos(math.pi / 5)), abs=1e-5)
    assert "recall" not in audit


def test_movement_tells_the_common_part_from_the_rest() -> None:
    before, free = vectors(4000), torch.randn(8, 8, generator=torch.Generator().manual_seed(2))
    common = before @ torch.matrix_exp(0.03 * (free - free.T))
    both = normalize(common + 0.02 * vectors(4000, seed=3))
    assert shadows.movement(before, common)["own"] < 2e-5
    moves = shadows.movement(before, both)
    assert moves["own"] == pytest.approx(0.02**2 / 2 * 7 / 8, rel=0.1)
    assert moves["moved"] > 5 * moves["own"]


# Simulation


def test_simulated_documents_move_as_far_as_they_are_told_to() -> None:
    documents, rows = Drifting(20_000, 64, 0.002, 0.001, 0), torch.arange(8000)
    starts = documents.vectors(rows)
    torch.testing.assert_close(starts, draw(20_000, Size(20_000, 64), 0)[:8000], atol=1e-5, rtol=0)
    for _ in range(5):
        before = documents.vectors(rows)
        documents.step()
        moves = shadows.movement(before, documents.vectors(rows))
        assert moves["own"] == pytest.approx(0.001, rel=0.3)
        assert moves["moved"] == pytest.approx(0.003, rel=0.3)
    torch.testing.assert_close(documents.vectors(rows[70:90]), documents.vectors(rows)[70:90], atol=1e-5, rtol=0)
    assert (1 - (starts * documents.vectors(rows)).sum(dim=1)).mean() > 0.008


def test_the_stopwatch_counts_nested_parts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(million.time, "process_time", lambda: now[0])
    watch = million.Stopwatch()

    def work(seconds: float) -> None:
        now[0] += seconds

    inner = watch.timed("inner", work)
    with watch.time("outer"):
        work(1)
        inner(2)
        with watch.time("middle"):
            inner(4)
            work(8)
    assert watch.seconds == {"outer": 1, "inner": 6, "middle": 8}


def test_functions_stand_in_for_methods_for_a_while() -> None:
    correction = RidgeCorrection()
    with million.watched([(correction, "fit", lambda *_: "stood in")]):
        assert correction.fit(vectors(2), vectors(2)) == "stood in"
    assert torch.is_tensor(correction.fit(vectors(2), vectors(2)))


# Report


def results() -> dict[str, Any]:
    audit = {"reward_mae": 0.004, "reward_bias": -0.002, "drift": 0.01, "advantage_correlation": 0.96}
    worse = audit | {"reward_mae": 0.006, "reward_bias": 0.001}
    found = {"documents": [50, 100], "seconds": [0.5, 1.5], "audits": [audit, worse]}
    graph = [one | {"recall": 0.99 - n / 100, "exact_fallback": float(n)} for n, one in enumerate(found["audits"])]
    figures = {
        "documents": 1000,
        "exact_reward": [0.2, 0.4],
        "seconds_per_document": 0.01,
        "step_seconds": 2.5,
        "moves": {"moved": 0.002, "own": 0.001},
        "lines": {DEFAULT.name: found, DEFAULT._replace(kind="hnsw").name: found | {"audits": graph}},
        "run_seconds": 9.0,
    }
    asked = {"steps": 3, "batch": 96, "samples": 4, "documents": 1000, "rate": 1e-4}
    step = {"search": 0.1, "select": 0.01, "correct": 0.02, "store": 0.03, "rest": 0.04, "recall": 0.99, "drift": 0.1}
    steps = [step, step | {"store": 0.33, "recall": 0.97, "exact_fallback": 1.0}, step]
    simulated = {"build_seconds": 12.4, "bytes": 3 << 20, "moves": {}, "steps": steps}
    shape = {"documents": 10**6, "kind": "faiss", "batch": 96, "samples": 4, "renewed": 1920}
    return report.summarise(
        [{"name": "one", "settings": asked, "figures": figures}],
        [{"name": "two", "settings": shape, "figures": simulated}],
    )


def test_tables_hold_each_figure_in_its_place() -> None:
    table = report.markdown(results()).splitlines()
    assert "3 steps of 384 searches, 2 audits; mean exact reward 0.300" in table[0]
    assert table[4] == "| **contested 5% ridge** | 75 | 1.75 | 0.75 | 0.0050 | -0.0005 | 0.0015 | 0.960 | 0.0100 | - |"
    assert table[5].endswith("| 0.0100 | 0.985 |")
    assert table[7] == (
        "- one: the default keeps the limits (mae 0.01, |bias| 0.003, advantages 0.95); the mae is at most 0.0060."
    )
    assert table[-1] == (
        "| 1,000,000 | faiss | 384 | 1,920 | 300 | 200 | 500 | 100 | 10 | 20 | 130 | 40 | 0.983 | 0.970 | 1 | 3 | 12 |"
    )


@pytest.mark.parametrize(("name", "value"), [("reward_mae", 0.011), ("reward_bias", -0.004), ("drift", 9.0)])
def test_the_verdict_looks_at_error_and_bias(name: str, value: float) -> None:
    figures = results()
    figures["trainings"]["one"]["lines"][DEFAULT.name][name] = value
    assert ("does not keep" in report.markdown(figures)) == (name != "drift")


# Everything


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_smoke_version_measures_every_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        assert run.main(["--smoke", "--output", str(tmp_path / "run")]) == 0
        first = json.loads((tmp_path / "run-smoke" / "results.json").read_text())
        assert "finished earlier" not in capsys.readouterr().out
    finally:
        torch.set_num_threads(threads)
    (training,) = first["trainings"].values()
    assert list(training["lines"]) == [line.name for line in lines.every_line(smallest=False)]
    assert training["exact_reward"] > 0
    found = training["lines"]
    assert found[NEVER.name]["reward_mae"] > 0
    assert found[NEVER.name]["documents"] == 0
    assert found[FULL.name]["documents"] == training["documents"] == 60
    assert found[DEFAULT.name]["documents"] == 3
    assert found[DEFAULT.name]["drift"] < found["contested 5%"]["drift"] < found[NEVER.name]["drift"]
    graph = found[DEFAULT._replace(kind="hnsw").name]
    assert graph["reward_mae"] == pytest.approx(found[DEFAULT.name]["reward_mae"], abs=1e-4)
    assert graph["recall"] > 0.98
    assert 0 < training["moves"]["own"] < training["moves"]["moved"]
    assert (tmp_path / "run-smoke" / "plot.png").stat().st_size > 10_000
    simulated = first["simulations"].values()
    assert [one["settings"]["kind"] for one in simulated] == ["exact", "faiss", "hnsw"]
    assert all(one["recall"] > 0.95 and one["parts"]["search"] > 0 for one in simulated)


def test_what_is_finished_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[float] = []
    monkeypatch.setattr(run, "publish", lambda _: {"trainings": {}, "simulations": {}})
    monkeypatch.setattr(run, "train", lambda _, training: done.append(training.rate) or {"lines": {}})
    options = ["--model", "x", "--sizes", "10", "--output", str(tmp_path), "--results", str(tmp_path / "out.json")]
    threads = torch.get_num_threads()
    try:
        run.main([*options, "--rates", "0.1"])
        run.main([*options, "--rates", "0.1", "0.2"])
        run.main([*options, "--rates", "0.2", "--steps", "20"])
    finally:
        torch.set_num_threads(threads)
    assert done == [0.1, 0.2, 0.2]


def test_the_readme_says_what_the_results_say() -> None:
    figures = json.loads(RESULTS.read_text())
    assert report.markdown(figures) in (RESULTS.parent / "README.md").read_text()
