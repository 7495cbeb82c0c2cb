import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from srch3.errors import DataError
from srch3.inference.evaluation import System
from srch3.inference.scorecard import Scorecard, latency
from srch3.metrics.trec_files import read_qrels, read_run

QRELS = {"q1": {"a": 1, "b": 2}, "q2": {"a": 1}, "q3": {"a": 0}}
METRICS = ["ndcg@10", "recall@1"]
GOOD = System("good", {"q1": {"b": 2.0, "a": 1.0}, "q2": {"a": 1.0}}, (0.1, 0.2, 0.3), (4, 6, 5))
BAD = System("bad", {"q1": {"c": 2.0, "a": 1.0}, "q2": {"b": 1.0}, "q3": {"a": 1.0}})
WORSE = System("worse", {"q9": {"a": 1.0}})


def shown(card: Scorecard, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(card.tables())
    file: Any = console.file
    return file.getvalue()


def test_the_record_has_means_costs_and_counts() -> None:
    record = Scorecard([GOOD, BAD], QRELS, METRICS).record()
    assert (record["queries"], record["without_relevant"]) == (3, 1)
    good, bad = record["systems"]["good"], record["systems"]["bad"]
    assert good["metrics"] == pytest.approx({"ndcg@10": 2 / 3, "recall@1": 0.5})
    assert good["seconds"] == pytest.approx({"mean": 0.2, "p50": 0.2, "p95": 0.29, "queries": 3})
    assert (good["tokens"], good["answered"]) == (5.0, 2)
    assert (bad["tokens"], bad["seconds"], bad["answered"]) == (None, None, 3)


def test_the_first_system_is_compared_with_each_of_the_others() -> None:
    card = Scorecard([GOOD, BAD, WORSE], QRELS, METRICS)
    pairs = [(versus.first, versus.second, versus.metric) for versus in card.comparisons]
    assert pairs == [("good", name, metric) for metric in METRICS for name in ("bad", "worse")]
    recall = card.comparisons[2]
    assert (recall.figures.difference, recall.figures.wins, recall.figures.losses) == (0.5, 2, 0)
    assert recall.figures.p == 0.5
    assert recall.p_holm == 1.0


def test_files_say_what_the_record_says(tmp_path: Path) -> None:
    card = Scorecard([GOOD, BAD], QRELS, METRICS)
    card.write(tmp_path / "out", {"data": "folder"}, ["good"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "good.trec", "per_query.tsv", "qrels.trec", "results.json",
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == {"data": "folder", **card.record()}
    assert read_qrels(tmp_path / "out" / "qrels.trec") == QRELS
    assert read_run(tmp_path / "out" / "good.trec") == GOOD.run
    rows = [line.split("\t") for line in (tmp_path / "out" / "per_query.tsv").read_text().splitlines()]
    assert rows[0] == ["system", "query", *METRICS]
    assert [row[:2] for row in rows[1:]] == [[name, query] for name in ("good", "bad") for query in QRELS]
    assert rows[1][2:] == ["1.000000", "0.500000"]
    assert rows[-1][2:] == ["0.000000", "0.000000"]


def test_ids_that_a_run_cannot_hold_are_refused(tmp_path: Path) -> None:
    card = Scorecard([System("a", {"q 1": {"d": 1.0}})], {"q 1": {"d": 1}}, METRICS)
    with pytest.raises(DataError, match="output: expected ids without white space"):
        card.write(tmp_path, {}, ["a"])


def test_tables_show_every_figure() -> None:
    text = shown(Scorecard([GOOD, BAD, WORSE], QRELS, METRICS))
    assert "3 judged queries" in text
    for row in (
        "ndcg@10 0.6667 0.",
        "recall@1 0.5000 0.0000 0.0000",
        "queries answered 2 3 0",
        "tokens per query 5.0",
        "ms per query 200.0",
        "ms, median 200.0",
        "ms, 95th percentile 290.0",
        "good \N{MINUS SIGN} bad",
        "good \N{MINUS SIGN} worse",
        "recall@1 +0.5000 +0.0000 to +1.0000 1.0000 2 / 0",
    ):
        assert row in " ".join(text.replace("│", " ").split()), row


def test_tables_leave_out_what_nobody_measured() -> None:
    text = shown(Scorecard([BAD], {"q1": {"a": 1}}, METRICS))
    assert not any(word in text for word in ("tokens", "ms", "answered", "\N{MINUS SIGN}"))


def test_a_narrow_console_cuts_no_figure() -> None:
    systems = [GOOD._replace(name=f"system-{number}") for number in range(6)]
    text = shown(Scorecard(systems, QRELS, METRICS), width=40)
    assert "…" not in text


def test_no_time_is_no_latency() -> None:
    assert latency([]) is None
