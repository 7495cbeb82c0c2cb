"""Several runs of the quickstart side by side: what holds beyond one seed.

Run as ``python -m experiments.quickstart.seeds`` once the runs themselves are done; reads their ``report.json``, writes
``results.json`` beside this file and prints the table of the README.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.quickstart.report import CONTROLS, METRICS, ROWS, figures_of

RESULTS = Path(__file__).parent / "results.json"


def summarise(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread over runs of every system's metrics, and of the gain of stage 2.

    Args:
        reports: One per seed; at least two.
    """
    gains = [
        figures_of(report, "rl.thinking")["ndcg@10"] - figures_of(report, "sft.thinking")["ndcg@10"]
        for report in reports
    ]
    return {
        "gain_of_stage_2": {"mean": statistics.fmean(gains), "std": statistics.stdev(gains), "per_seed": gains},
        "seeds": [report["seed"] for report in reports],
        "queries": reports[0]["queries"],
        "documents": reports[0]["documents"],
        "systems": {name: _system(reports, name) for name in (*ROWS, *CONTROLS)},
        "audits": [report["audits"] for report in reports],
        "stages": [report["stages"] for report in reports],
        "machine": reports[0]["machine"],
        "versions": reports[0]["versions"],
    }


def _system(reports: Sequence[Mapping[str, Any]], name: str) -> dict[str, dict[str, Any]]:
    columns = {metric: [figures_of(report, name)[metric] for report in reports] for metric in METRICS}
    return {
        metric: {"mean": statistics.fmean(values), "std": statistics.stdev(values), "per_seed": values}
        for metric, values in columns.items()
    }


def table(results: Mapping[str, Any]) -> str:
    """The figures as a Markdown table: mean ± standard deviation over seeds."""
    lines = [f"| system | {' | '.join(METRICS)} |", "|---|" + "---|" * len(METRICS)]
    for name, label in (ROWS | CONTROLS).items():
        figures = results["systems"][name]
        cells = [f"{figures[metric]['mean']:.3f} ± {figures[metric]['std']:.3f}" for metric in METRICS]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    gain = results["gain_of_stage_2"]
    per_seed = ", ".join(f"{value:+.3f}" for value in gain["per_seed"])
    total = f"{gain['mean']:+.3f} ± {gain['std']:.3f}"
    lines += ["", f"Stage 2 over stage 1, thinking, nDCG@10: {total} (seeds: {per_seed})."]
    return "\n".join(lines)


def main(folders: Sequence[str]) -> None:
    """Reads the runs' reports, writes the results, prints the table.

    Args:
        folders: Output folders of the runs; at least two.

    Raises:
        SystemExit: A run is missing or unfinished.
    """
    paths = [Path(folder) / "report.json" for folder in folders]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or len(paths) < 2:
        sys.exit(f"error: expected the report.json of two runs or more; got {len(paths)}, missing: {missing}")
    results = summarise([json.loads(path.read_text(encoding="utf-8")) for path in paths])
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main(sys.argv[1:] or ["runs/quickstart", "runs/quickstart-seed1", "runs/quickstart-seed2"])
