"""The report: all figures in one JSON file, and as a table for the console."""

import itertools
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from experiments.quickstart.curves import read_curves, series
from experiments.quickstart.findings import Finding, Scores, findings
from experiments.quickstart.progress import Progress
from experiments.surroundings import surroundings
from srch3.errors import DataError

METRICS = ("ndcg@10", "mrr@10", "recall@100")
ROWS = {
    "untrained.direct": "untrained base, direct",
    "untrained.thinking": "untrained base, thinking",
    "bm25": "BM25",
    "sft.direct": "stage 1, direct",
    "sft.thinking": "stage 1, thinking",
    "rl.direct": "stage 2, direct",
    "rl.thinking": "stage 2, thinking",
}
CONTROLS = {
    "sft.empty": "stage 1, thought left out",
    "sft.shuffled": "stage 1, another's thought",
    "rl.empty": "stage 2, thought left out",
    "rl.shuffled": "stage 2, another's thought",
    "control.direct": "direct, same new queries",
}
_PACKAGES = ("srch3", "torch", "lightning", "transformers", "tokenizers", "bm25s", "numpy")


def read_evaluations(folder: Path) -> dict[str, dict[str, Any]]:
    """What the evaluations left, by system.

    Raises:
        DataError: They are not about the same queries and documents.
    """
    names = ("untrained", "bm25", "sft", "rl", "control")
    found = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    if len({evaluation["test_set"] for evaluation in found.values()}) > 1:
        raise DataError(
            "data: expected sft.yaml, rl.yaml and direct.yaml to test on the same queries and documents; got different "
            "ones; give limit_test, test_roots and max_document_characters the same value in all of them"
        )
    return found


def per_query(evaluations: Mapping[str, Mapping[str, Any]]) -> Scores:
    """nDCG@10 of each query, by ``system.mode``; BM25 has no modes."""
    return {
        name if name == "bm25" else f"{name}.{mode}": scores
        for name, evaluation in evaluations.items()
        for mode, scores in evaluation["ndcg@10"].items()
    }


def build_report(output: Path, seed: int, stages: Mapping[str, Progress]) -> dict[str, Any]:
    """Everything that is known about a run.

    Args:
        output: Folder of the whole run.
        seed: Of the run.
        stages: What each stage took.
    """
    evaluations = read_evaluations(output / "evaluate")
    scores = per_query(evaluations)
    seconds = {name: progress.seconds for name, progress in stages.items()}
    untrained = evaluations["untrained"]["metrics"]
    return {
        "untrained": untrained["thinking"],
        "untrained_direct": untrained["direct"],
        "bm25": evaluations["bm25"]["metrics"]["bm25"],
        **{name: evaluations[name]["metrics"] for name in ("sft", "rl", "control")},
        "findings": [_plain(finding) for finding in findings(scores, seconds)],
        "queries": evaluations["bm25"]["queries"],
        "documents": evaluations["bm25"]["documents"],
        "stages": {name: _cost(progress) for name, progress in stages.items()},
        **_environment(output / "rl"),
        "seed": seed,
        **surroundings(*_PACKAGES),
    }


def _plain(finding: Finding) -> dict[str, Any]:
    figures = {"difference": finding.difference.mean, "standard_error": finding.difference.error}
    return {"first": finding.first, "second": finding.second, **figures, "sentence": finding.sentence}


def _cost(progress: Progress) -> dict[str, float]:
    cost = {"seconds": round(progress.seconds, 1), "peak_mib": round(progress.peak_mib)}
    return cost if progress.attempts == 1 else {**cost, "attempts": progress.attempts}


def _environment(folder: Path) -> dict[str, Any]:
    """What the environment of stage 2 did, and how far its rewards were from exact ones."""
    rows = read_curves(folder)
    steps, shares = series(rows, "env/refreshed_share")
    audited = ("reward_bias", "reward_mae", "advantage_correlation")
    audits = {name: _changes(series(rows, f"env/{name}")[1]) for name in audited}
    share = {"mean": statistics.fmean(shares), "max": max(shares)} if shares else {"mean": None, "max": None}
    return {"refreshed_share": {**share, "steps": steps, "per_step": shares}, "audits": audits}


def _changes(values: list[float]) -> list[float]:
    """Without repetitions: a logger writes the last audit's figures again with every step that follows it."""
    return [value for value, _ in itertools.groupby(values)]


def figures_of(report: Mapping[str, Any], name: str) -> Mapping[str, float]:
    """The metrics of a system, by the name that it has in the table."""
    system, _, mode = name.partition(".")
    if system == "untrained" and mode == "direct":
        system, mode = "untrained_direct", ""
    elif system == "untrained":
        mode = ""
    figures: Mapping[str, float] = report[system][mode] if mode else report[system]
    return figures


def show_report(report: Mapping[str, Any]) -> Group:
    """The tables and the sentences for a console."""
    told = {finding["first"]: finding["sentence"] for finding in report["findings"] if finding["first"] in CONTROLS}
    claims = [finding["sentence"] for finding in report["findings"] if finding["first"] not in CONTROLS]
    size = f"{report['queries']:,} held-out queries, {report['documents']:,} documents, seed {report['seed']}"
    table = Table(title=size, title_justify="left", title_style="")
    for number, heading in enumerate(("system", *METRICS)):
        table.add_column(heading, justify="right" if number else "left")
    for names in (ROWS, CONTROLS):
        for name, label in names.items():
            figures = (f"{figures_of(report, name)[metric]:.3f}" for metric in METRICS)
            table.add_row(label, *figures, style="dim" if name in CONTROLS else "")
        table.add_section()
    lines = [f"• {claim}" for claim in claims] + [f"• {label}: {told[name]}" for name, label in CONTROLS.items()]
    return Group(table, Text("\n".join([*lines, _caveat(report)])), _stages(report))


def _caveat(report: Mapping[str, Any]) -> str:
    return (
        f"(nDCG@10; ± is the standard error over {report['queries']:,} queries of one run; two of them count as a "
        "difference. Other training runs give other figures: --seed N.)"
    )


def _stages(report: Mapping[str, Any]) -> Table:
    table = Table("stage", "seconds", "peak memory, MiB")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, cost in report["stages"].items():
        table.add_row(name, f"{cost['seconds']:.0f}", f"{cost['peak_mib']:,}")
    return table
