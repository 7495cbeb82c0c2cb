import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from experiments.stage1.commands import Job
from experiments.stage1.jobs import Report
from experiments.stage1.results import over_seeds
from experiments.stage2 import conclude, run
from experiments.stage2.conclude import README, RESULTS, filled
from experiments.stage2.plot import plot
from experiments.stage2.results import command, curves, means_of_parts
from experiments.stage2.settings import Settings, data_set, parse
from experiments.stage2.tables import (
    COMPARISONS,
    comparisons_table,
    results_table,
    rewards_table,
    thoughts_table,
    variants_table,
)
from experiments.stage2.variants import ALL_MODES, STAGE_1, VARIANTS
from srch3.types import Mode
from tests.runs import make_beir_folder, write_lines

HUNDREDTHS = {mode: 0.01 * number for number, mode in enumerate(ALL_MODES)}


def figures(level: float, modes: tuple[Mode, ...] = ALL_MODES) -> dict[str, dict[str, dict[str, float]]]:
    """Each mode a hundredth above the one before, the test split a tenth above dev."""
    return {
        split: {mode: {"ndcg@10": level + above + HUNDREDTHS[mode]} for mode in modes}
        for split, above in (("dev", 0.0), ("test", 0.1))
    }


@pytest.fixture
def results() -> dict[str, Any]:
    reports = {
        STAGE_1: [figures(0.1), figures(0.2)],
        "full": [figures(0.3), figures(0.3)],
        "direct": [figures(0.15, ("direct",)), figures(0.25, ("direct",))],
    }
    return {
        "figures": {name: over_seeds(some) for name, some in reports.items()},
        "bm25": {"dev": {"ndcg@10": 0.7}, "test": {"ndcg@10": 0.75}},
        "steps": {STAGE_1: [1000, 1000], "full": [60, 60], "direct": [100, 200]},
        "seconds": {STAGE_1: [10.0, 20.0], "full": [30.4, 30.4], "direct": [1.0, 2.0]},
        "curves": {
            "full": {
                "reward": {"steps": [1.0, 2.5, 4.5, 6.0], "per_seed": [[0.1, 0.2, 0.3, 0.4], [0.3, 0.2, 0.3, 0.8]]},
                "val": {"steps": [20, 40], "per_seed": [[0.3, 0.4], [0.4, 0.5]]},
            }
        },
        "queries": {"dev": 9, "test": 1234},
        "documents": 2345,
        "command": "python -m experiments.stage2.run --root BEIR_FOLDER",
    }


def cells(table: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in table.splitlines()]


# Tables


def test_figures_with_their_differences_by_hand(results: dict[str, Any]) -> None:
    heads, _, stage1, full, direct, bm25 = cells(results_table(results, "test"))
    assert heads[:7] == ["variant", "thinking", "to stage 1", "to full", "sampled", "to stage 1", "to full"]
    assert heads[7:] == ["direct", "to stage 1", "to full", "steps", "s"]
    assert stage1[:4] == ["stage 1", "0.250 ± 0.071", "-", "-0.150 ± 0.071"]
    assert full[:4] == ["full", "0.400 ± 0.000", "+0.150 ± 0.071", "-"]
    assert full[4:8] == ["0.410 ± 0.000", "+0.150 ± 0.071", "-", "0.430 ± 0.000"]
    assert direct[1:7] == ["-"] * 6
    assert direct[7:] == ["0.330 ± 0.071", "+0.050 ± 0.000", "-0.100 ± 0.071", "150", "2"]
    assert stage1[-2:] == ["1,000", "15"]
    assert [bm25[0], bm25[7]] == ["BM25", "0.750"]
    assert {len(row) for row in (heads, stage1, full, direct, bm25)} == {12}


def test_what_takes_the_place_of_a_thought_is_compared_with_it(results: dict[str, Any]) -> None:
    heads, _, *rows = cells(thoughts_table(results, "dev"))
    assert heads == [
        "variant",
        "its own thought",
        "left out",
        "another query's",
        "copy of the query",
        "mean of four sampled",
    ]
    assert rows == [
        ["stage 1", "0.150 ± 0.071", "+0.040 ± 0.000", "+0.050 ± 0.000", "+0.060 ± 0.000", "+0.020 ± 0.000"],
        ["full", "0.300 ± 0.000", "+0.040 ± 0.000", "+0.050 ± 0.000", "+0.060 ± 0.000", "+0.020 ± 0.000"],
    ]


def test_claims_whose_variants_were_run_are_compared(results: dict[str, Any]) -> None:
    rows = {label: values for label, *values in cells(comparisons_table(results))}
    assert rows["stage 2 over stage 1, thinking"] == ["+0.150 ± 0.071", "+0.150 ± 0.071"]
    assert rows["thinking after stage 2 over the direct control, as many steps"] == ["+0.070 ± 0.071"] * 2
    assert rows["its own thought over none, after stage 2"] == ["-0.040 ± 0.000"] * 2
    assert not any("policy" in label or "pause" in label for label in rows)


def test_claims_are_about_what_is_measured() -> None:
    for pair in COMPARISONS.values():
        for name, mode in pair:
            assert mode in (ALL_MODES if name == STAGE_1 else VARIANTS[name].modes)


def test_rewards_in_the_course_of_training(results: dict[str, Any]) -> None:
    assert cells(rewards_table(results)) == [
        ["reward", "around step 1", "around step 6"],
        ["---", "---:", "---:"],
        ["full", "0.200 ± 0.141", "0.600 ± 0.283"],
    ]
    assert rewards_table({"curves": {}}) == ""


def test_one_seed_has_no_spread(results: dict[str, Any], tmp_path: Path) -> None:
    results["figures"] = {"full": over_seeds([figures(0.3)])}
    results["curves"]["full"]["reward"]["per_seed"] = [[0.1, 0.2, 0.3, 0.4]]
    assert cells(results_table(results, "test"))[2][:4] == ["full", "0.400", "-", "-"]
    assert cells(rewards_table(results))[2] == ["full", "0.100", "0.400"]
    assert plot(results, tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_controls_are_listed_with_their_file() -> None:
    rows = {name: options for name, _, options in cells(variants_table())}
    assert rows["full"] == "-"
    assert rows["no-kl"] == "`--model.init_args.reference_kl.init_args.weight 0`"
    assert rows["direct"].startswith("`-c experiments/stage2/control.yaml --model.init_args.train_modes [direct]")


# Results


def test_a_course_has_at_most_ten_parts() -> None:
    assert means_of_parts([1.0, 2.0, 4.0]) == [1.0, 2.0, 4.0]
    assert means_of_parts(list(range(20))) == [0.5 + 2 * part for part in range(10)]
    assert means_of_parts(list(range(11)))[-1] == 9.5


def log(output: Path, name: str, lines: list[str]) -> Job:
    (output / name / "logs" / "version_0").mkdir(parents=True)
    write_lines(output / name / "logs" / "version_0" / "metrics.csv", lines)
    return Job(name, [], {}, "f")


def test_curves_are_those_of_rewards(tmp_path: Path) -> None:
    settings = Settings(data_set("quickstart", None), tmp_path)
    rewarded = [
        log(tmp_path, f"full/seed{seed}", ["step,train/reward,val/ndcg@10", f"0,0.{seed}", f"1,0.2{seed},0.5"])
        for seed in (1, 2)
    ]
    assert curves(settings, rewarded) == {
        "reward": {"steps": [1, 2], "per_seed": [[0.1, 0.21], [0.2, 0.22]]},
        "val": {"steps": [2], "per_seed": [[0.5], [0.5]]},
    }
    supervised = log(tmp_path, "direct", ["step,train/loss,val/ndcg@10", "0,1.5,0.5"])
    assert curves(settings, [supervised]) == {}


def test_the_readmes_commands_can_be_typed(tmp_path: Path) -> None:
    root = make_beir_folder(tmp_path / "words")
    text = README.read_text(encoding="utf-8")
    lines = [line.partition("#")[0] for line in text.splitlines() if line.startswith("python -m experiments.stage2.")]
    assert len(lines) >= 4
    for line in lines:
        _, _, program, *options = shlex.split(line.replace("BEIR_FOLDER", str(root)))
        output = ["--output", str(tmp_path / "out")] if "--output" not in options else []
        settings = parse(program, "", [*options, *output])
        typed = command(settings, program)
        assert str(tmp_path) not in typed
        assert typed.startswith(f"python -m {run.PROGRAM} --")


def test_the_command_says_what_was_changed() -> None:
    settings = Settings(data_set("quickstart", None), Path("x"), (5, 7), 2, variants=("full",), steps=9, stage1_steps=8)
    expected = "python -m a.b --quickstart --seeds 5 7 --jobs 2 --variants full --steps 9 --stage1-steps 8"
    assert command(settings, "a.b") == expected


# README


def test_the_readme_shows_what_the_results_say() -> None:
    text = README.read_text(encoding="utf-8")
    assert filled(text, json.loads(RESULTS.read_text(encoding="utf-8"))) == text


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A README and results of their own, so that the committed ones stay."""
    for name, path in (("README", README), ("RESULTS", RESULTS)):
        copy = tmp_path / path.name
        copy.write_text("{}" if name == "RESULTS" else path.read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(conclude, name, copy)
    return tmp_path / README.name, tmp_path / RESULTS.name


def test_data_sets_are_published_side_by_side(published: tuple[Path, Path], results: dict[str, Any]) -> None:
    readme, kept = published
    for name in ("one", "two", "one"):
        conclude.publish(name, results)
    assert list(json.loads(kept.read_text())) == ["one", "two"]
    shown = readme.read_text()
    assert shown.count("### one") == shown.count("### two") == 1
    assert shown.count("2,345 documents; queries: 9 dev, 1,234 test.") == 2
    for table in (results_table(results, "test"), thoughts_table(results, "dev"), rewards_table(results)):
        assert shown.count(table) == 2


@pytest.mark.parametrize("unfinished", [None, "no figures", "no job"])
def test_only_what_is_finished_is_published(
    unfinished: str | None, tmp_path: Path, published: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    settings = Settings(data_set("words", make_beir_folder(tmp_path / "words")), output, seeds=(0,), publish=True)
    lines = ["step,train/seconds,train/reward,val/ndcg@10", "0,1.5,0.1,0.2"]
    jobs = {name: [log(output, f"{name}/seed0", lines)] for name in (STAGE_1, "full", "no-kl")}
    for name, (job,) in jobs.items():
        found = None if unfinished == "no figures" and name == "no-kl" else figures(0.1)
        report = Report("f", 1, 2.0, True, found)
        (output / job.name / "report.json").write_text(json.dumps(report._asdict()))
    if unfinished == "no job":
        jobs["no-kl"] = []
    assert conclude.conclude(settings, run.PROGRAM, jobs) == int(unfinished is not None)
    kept = json.loads((output / "results.json").read_text())
    assert next(iter(kept)) == "figures"
    assert list(kept["figures"]) == [STAGE_1, "full", "no-kl"][: 3 - (unfinished is not None)]
    assert (kept["steps"]["full"], kept["seconds"]["full"]) == ([1], [1.5])
    assert str(tmp_path) not in json.dumps(kept)
    assert list(json.loads(published[1].read_text())) == ([] if unfinished else ["words"])
    assert ("not finished: no-kl" in capsys.readouterr().err) == (unfinished is not None)
