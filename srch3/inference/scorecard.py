"""How systems compare: tables for the console, and files for whoever goes on with the figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group
from rich.table import Column, Table

from srch3.inference.evaluation import System
from srch3.metrics.evaluation import PerQuery, evaluate_run, means
from srch3.metrics.significance import Comparison, compare, holm
from srch3.metrics.trec_files import Qrels, write_qrels, write_run


class Versus(NamedTuple):
    """One comparison of two systems in one metric.

    Attributes:
        first: Name of a system.
        second: Name of the system that it is compared with.
        metric: Name of the metric.
        figures: First less second.
        p_holm: ``p``, raised for the number of systems that the first was compared with.
    """

    first: str
    second: str
    metric: str
    figures: Comparison
    p_holm: float


class Scorecard:
    """The metrics of several systems, and how the first of them compares with each of the others.

    Args:
        systems: With different names, at least one.
        qrels: Judgements; all judged queries count.
        metrics: Names, as in :func:`~srch3.metrics.evaluation.parse_metric`.
    """

    def __init__(self, systems: Sequence[System], qrels: Qrels, metrics: Sequence[str]) -> None:
        self.systems, self.qrels, self.metrics = systems, qrels, metrics
        self.values: dict[str, PerQuery] = {system.name: evaluate_run(system.run, qrels, metrics) for system in systems}
        self.means = {name: means(values) for name, values in self.values.items()}
        self.comparisons = self._compare()

    def _compare(self) -> list[Versus]:
        first, *others = self.values
        compared = {name: compare(self.values[first], self.values[name]) for name in others}
        found = []
        for metric in self.metrics:
            raised = holm([compared[name][metric].p for name in others])
            found += [
                Versus(first, name, metric, compared[name][metric], p) for name, p in zip(others, raised, strict=True)
            ]
        return found

    def record(self) -> dict[str, Any]:
        """All figures but those of single queries, as ``results.json`` has them."""
        return {
            "queries": len(self.qrels),
            "without_relevant": sum(max(judged.values(), default=0) < 1 for judged in self.qrels.values()),
            "systems": {
                system.name: {
                    "answered": self._answered(system),
                    "metrics": self.means[system.name],
                    "tokens": float(np.mean(system.tokens)) if system.tokens else None,
                    "seconds": latency(system.seconds),
                }
                for system in self.systems
            },
            "comparisons": [_flat(versus) for versus in self.comparisons],
        }

    def write(self, folder: Path, facts: Mapping[str, Any], searched: Sequence[str]) -> None:
        """Writes everything.

        ``results.json`` has the means and comparisons, ``per_query.tsv`` one line per system and query,
        ``{system}.trec`` what a system found, and ``qrels.trec`` the judgements.

        Args:
            folder: Is made where it is absent; files of the same names are replaced.
            facts: What was measured, and how, for ``results.json``.
            searched: Names of the systems whose runs are written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for system in self.systems:
            if system.name in searched:
                write_run(folder / f"{system.name}.trec", system.run, system.name)
        write_qrels(folder / "qrels.trec", self.qrels)
        with (folder / "per_query.tsv").open("w", encoding="utf-8") as table:
            table.write("\t".join(["system", "query", *self.metrics]) + "\n")
            for name, values in self.values.items():
                for query in self.qrels:
                    row = (f"{values[metric][query]:.6f}" for metric in self.metrics)
                    table.write("\t".join([name, query, *row]) + "\n")
        results = json.dumps({**facts, **self.record()}, indent=2, ensure_ascii=False)
        (folder / "results.json").write_text(results + "\n", encoding="utf-8")

    def tables(self) -> Group:
        """The means, and the comparisons where there are several systems, to be printed."""
        return Group(self._means_table(), *self._comparison_tables())

    def _answered(self, system: System) -> int:
        return len(self.qrels.keys() & system.run.keys())

    def _means_table(self) -> Table:
        table = Table(Column(overflow="fold"), title=f"{len(self.qrels)} judged queries", title_justify="left")
        for system in self.systems:
            table.add_column(system.name, justify="right", overflow="fold")
        for metric in self.metrics:
            table.add_row(metric, *(f"{self.means[system.name][metric]:.4f}" for system in self.systems))
        answered = [self._answered(system) for system in self.systems]
        if min(answered) < len(self.qrels):
            table.add_row("queries answered", *map(str, answered))
        if any(system.tokens for system in self.systems):
            written = (f"{np.mean(system.tokens):.1f}" if system.tokens else "" for system in self.systems)
            table.add_row("tokens per query", *written)
        times = [latency(system.seconds) or {} for system in self.systems]
        for name, label in {"mean": "ms per query", "p50": "ms, median", "p95": "ms, 95th percentile"}.items():
            if any(times):
                table.add_row(label, *(f"{1000 * time[name]:.1f}" if time else "" for time in times))
        return table

    def _comparison_tables(self) -> list[Table]:
        tables = []
        for other in [system.name for system in self.systems[1:]]:
            title = f"{self.systems[0].name} \N{MINUS SIGN} {other}"
            table = Table(Column(overflow="fold"), title=title, title_justify="left")
            for column in ("difference", "95 % interval", "p", "better / worse"):
                table.add_column(column, justify="right", overflow="fold")
            for versus in self.comparisons:
                if versus.second == other:
                    table.add_row(versus.metric, *_cells(versus))
            tables.append(table)
        return tables


def latency(seconds: Sequence[float]) -> dict[str, float] | None:
    """Mean and percentiles of what queries took; None where none was timed.

    Args:
        seconds: Of each query.
    """
    if not seconds:
        return None
    p50, p95 = np.percentile(seconds, [50, 95])
    return {"mean": float(np.mean(seconds)), "p50": float(p50), "p95": float(p95), "queries": len(seconds)}


def _cells(versus: Versus) -> list[str]:
    figures = versus.figures
    interval = f"{figures.low:+.4f} to {figures.high:+.4f}"
    return [f"{figures.difference:+.4f}", interval, f"{versus.p_holm:.4f}", f"{figures.wins} / {figures.losses}"]


def _flat(versus: Versus) -> dict[str, Any]:
    names = {"first": versus.first, "second": versus.second, "metric": versus.metric}
    return {**names, **versus.figures._asdict(), "p_holm": versus.p_holm}
