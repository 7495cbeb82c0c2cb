import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.bm25 import bm25_hits
from experiments.quickstart.curves import read_curves, series
from experiments.quickstart.examples import read_examples, show_examples
from experiments.quickstart.findings import Difference, findings, paired
from experiments.quickstart.progress import Progress
from experiments.quickstart.report import METRICS, build_report, figures_of, read_evaluations
from srch3.data import Corpus
from srch3.errors import DataError
from tests.experiments.lucene import lucene_bm25

# Curves


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "epoch", "train/loss", "val/loss"])
        writer.writeheader()
        writer.writerows(rows)


def test_a_resumed_attempt_overrules_the_steps_that_it_does_again(tmp_path: Path) -> None:
    write_rows(tmp_path / "version_9" / "metrics.csv", [{"step": step, "train/loss": step} for step in range(4)])
    write_rows(tmp_path / "version_10" / "metrics.csv", [{"step": 2, "train/loss": 20}, {"step": 5, "val/loss": 7}])
    (tmp_path / "version_11").mkdir()
    rows = read_curves(tmp_path)
    assert series(rows, "train/loss") == ([0, 1, 2], [0.0, 1.0, 20.0])
    assert series(rows, "val/loss") == ([5], [7.0])


# Findings and report


def test_the_paired_difference_by_hand() -> None:
    difference = paired([1.0, 0.5, 0.5, 0.0], [0.5, 0.5, 0.0, 0.0])
    assert difference.mean == pytest.approx(0.25, abs=1e-9)
    assert difference.error == pytest.approx(math.sqrt((4 * 0.0625) / 3 / 4), abs=1e-9)
    assert not difference.clear
    assert Difference(-0.3, 0.1).clear
    assert str(Difference(-0.3, 0.1)) == "-0.300 ± 0.100"


def scores_of(**levels: float) -> dict[str, list[float]]:
    """Scores that differ by constants, but for a little that makes small differences unclear."""
    names = [name.replace("__", ".") for name in levels]
    return {
        name: [level + 0.01 * math.sin(7 * query + 3 * number) for query in range(50)]
        for number, (name, level) in enumerate(zip(names, levels.values(), strict=True))
    }


LEVELS = {
    "untrained__thinking": 0.01,
    "untrained__direct": 0.1,
    "bm25": 0.4,
    "sft__thinking": 0.4,
    "sft__direct": 0.35,
    "sft__empty": 0.4,
    "sft__shuffled": 0.4,
    "rl__thinking": 0.45,
    "rl__direct": 0.5,
    "rl__empty": 0.2,
    "rl__shuffled": 0.1,
    "control__direct": 0.6,
}
SECONDS = {"rl": 100.0, "direct": 90.0}


def sentences(**levels: float) -> dict[tuple[str, str], str]:
    told = findings(scores_of(**{**LEVELS, **levels}), SECONDS)
    return {(finding.first, finding.second): finding.sentence for finding in told}


def test_sentences_follow_the_figures() -> None:
    told = sentences()
    assert "ahead of the untrained base in its better mode" in told["sft.thinking", "untrained.direct"]
    assert "which is 4.0 times as much." in told["sft.thinking", "untrained.direct"]
    assert "no difference that these queries can show" in told["sft.thinking", "bm25"]
    assert "Stage 2, thinking, is ahead of stage 1, thinking: +0.05" in told["rl.thinking", "sft.thinking"]
    assert "is behind stage 2, direct" in told["rl.thinking", "rl.direct"]
    assert "changes nothing that shows" in told["sft.empty", "sft.thinking"]
    assert "counts on having thought" in told["rl.empty", "rl.thinking"]
    assert "no sign that it heeds" in told["sft.shuffled", "sft.thinking"]
    assert "heeds what a thought says" in told["rl.shuffled", "rl.thinking"]
    assert "for 90 s (stage 2: 100 s), is ahead of stage 2" in told["control.direct", "rl.thinking"]


def test_sentences_turn_with_the_figures() -> None:
    told = sentences(untrained__direct=0.0, sft__empty=0.5, control__direct=0.3)
    assert "times" not in told["sft.thinking", "untrained.thinking"].replace("times as much", "")
    assert "the thought does harm" in told["sft.empty", "sft.thinking"]
    assert "is behind stage 2" in told["control.direct", "rl.thinking"]
    assert "no sign that it is thinking that pays" in sentences(control__direct=0.45)["control.direct", "rl.thinking"]


def write_evaluations(folder: Path, **test_sets: str) -> None:
    folder.mkdir(parents=True)
    by_system: dict[str, dict[str, list[float]]] = {}
    for name, scores in scores_of(**LEVELS).items():
        system, _, mode = name.partition(".")
        by_system.setdefault(system, {})[mode or system] = scores
    for system, modes in by_system.items():
        content = {
            "metrics": {mode: dict.fromkeys(METRICS, sum(scores) / len(scores)) for mode, scores in modes.items()},
            "queries": 50,
            "documents": 70,
            "test_set": test_sets.get(system, "same"),
            "ndcg@10": modes,
        }
        (folder / f"{system}.json").write_text(json.dumps(content))


def test_evaluations_on_different_queries_are_not_compared(tmp_path: Path) -> None:
    write_evaluations(tmp_path / "evaluate", control="other")
    with pytest.raises(DataError, match=r"expected sft\.yaml, rl\.yaml and direct\.yaml to test on the same"):
        read_evaluations(tmp_path / "evaluate")


def test_the_report_holds_each_figure_in_its_place(tmp_path: Path) -> None:
    write_evaluations(tmp_path / "evaluate")
    path = tmp_path / "rl" / "version_0" / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text("step,env/refreshed_share,env/reward_bias\n0,0.05,\n1,0.15,0.01\n")
    took = {"rl": Progress("", True, 2, 100.04, 512.3), "direct": Progress("", True, 1, 90.0, 400.0)}
    report = build_report(tmp_path, 7, took)
    for name, level in LEVELS.items():
        figures = figures_of(report, name.replace("__", "."))
        assert set(figures) == set(METRICS)
        assert figures["ndcg@10"] == pytest.approx(level, abs=0.01)
    assert report["sft"]["thinking"]["ndcg@10"] == figures_of(report, "sft.thinking")["ndcg@10"]
    assert report["stages"]["rl"] == {"seconds": 100.0, "peak_mib": 512, "attempts": 2}
    assert report["stages"]["direct"] == {"seconds": 90.0, "peak_mib": 400}
    assert report["refreshed_share"] == {
        "mean": pytest.approx(0.1),
        "max": 0.15,
        "steps": [0, 1],
        "per_step": [0.05, 0.15],
    }
    assert report["audits"]["reward_bias"] == [0.01]
    assert (report["seed"], report["queries"], report["documents"]) == (7, 50, 70)


# BM25 and examples


def test_bm25_is_lucenes() -> None:
    texts = [
        "def readFile(path): read",
        "def write_file(path, data, data): pass",
        "def sort(): pass",
        "class Heap: pass",
    ]
    queries = ["Read the file at a path path", "sort data", "unheard of words", ""]
    hits = bm25_hits(queries, Corpus(["a", "b", "c", "d"], texts))
    expected = torch.tensor(lucene_bm25(queries, texts))
    assert hits.scores == pytest.approx(expected.sort(dim=1, descending=True).values, abs=1e-5)
    assert expected.gather(1, hits.rows) == pytest.approx(hits.scores, abs=1e-5)
    assert hits.rows[2:].tolist() == [[0, 1, 2, 3]] * 2
    assert bm25_hits(queries, Corpus(["a", "b", "c", "d"], texts), k=2).rows.shape == (4, 2)


def test_examples_mark_what_is_right(tmp_path: Path) -> None:
    hits = [{"id": name, "score": 0.5} for name in "abcde"]
    searches = [{"id": name, "text": f"find {name}", "thought": "", "hits": hits} for name in ("q1", "q2", "q3")]
    path = tmp_path / "searches.jsonl"
    path.write_text("".join(json.dumps(search) + "\n" for search in searches))
    examples = read_examples(path, {"q1": {"b": 1}, "q2": {"e": 2}, "q3": {"z": 1}})
    assert [example["place"] for example in examples] == [2, 5, None]
    assert [hit["right"] for hit in examples[0]["hits"]] == [False, True, False]
    shown = show_examples(examples).plain
    assert shown.count("✓") == 1
    assert "✓ 2. b" in shown
    assert "in place 5" in shown
    assert "not among the first 5" in shown
