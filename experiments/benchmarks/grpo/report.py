"""From measurements to figures, and from figures to tables.

``python -m experiments.benchmarks.grpo.report`` prints those of ``results.json`` as the README has them.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from experiments.benchmarks.grpo.settings import RESULTS, Settings, Setup
from experiments.surroundings import surroundings

Figures = Mapping[str, Any]

HEADINGS = ("a step of", "s", "faster", "CPU s", "faster", "MiB", "tokens read", "padding", "completion")
EQUALITY_HEADINGS = ("loss", "theirs", "ours", "clipped", "gradient differs by")
_PACKAGES = ("torch", "transformers", "trl", "lightning")


_LEAST_MIB = 0.1
"""Less than that cannot be told from none; the smoke version's model needs hardly more."""


def summarise(
    settings: Settings, data: Figures, equal: Figures, measured: Mapping[str, Sequence[Figures]], seconds: float
) -> dict[str, Any]:
    """What the run says.

    Args:
        settings: Of the run.
        data: What was prepared.
        equal: Differences of losses and gradients.
        measured: By line, what each round gave.
        seconds: What the run took.
    """
    setup = settings.setup
    lines = {line.name: _line(setup, line.label, measured[line.name]) for line in settings.lines}
    return {
        "equality": equal,
        "comparisons": {
            shape.name: {"title": shape.title}
            | _comparison([lines[line.name] | {"side": line.side} for line in settings.lines if line.shape == shape])
            for shape in settings.shapes
        },
        "lines": lines,
        "shapes": {line.name: line.shape.name for line in settings.lines},
        "data": data,
        "setup": {name: value for name, value in setup._asdict().items() if name != "folder"},
        "rounds": settings.rounds,
        "threads": settings.threads,
        "seconds": round(seconds),
        **surroundings(*_PACKAGES),
    }


def _line(setup: Setup, label: str, rounds: Sequence[Figures]) -> dict[str, Any]:
    by_round = [statistics.median(figures["seconds"][setup.warmup :]) for figures in rounds]
    cpu = [statistics.median(figures["cpu_seconds"][setup.warmup :]) for figures in rounds]
    first = rounds[0]
    return {
        "label": label,
        "seconds": statistics.median(by_round),
        "seconds_by_round": by_round,
        "cpu_seconds": statistics.median(cpu),
        "training_mib": max(figures["peak_mib"] - figures["held_mib"] for figures in rounds),
        "process_mib": max(figures["peak_mib"] for figures in rounds),
        "tokens": first["tokens"] / setup.steps,
        "padding": first["padding"] / first["tokens"],
        "completion_tokens": statistics.mean(length for figures in rounds for length in figures["lengths"]),
        "losses": first["losses"],
    }


def _comparison(lines: Sequence[Figures]) -> dict[str, Any]:
    """Each of our lines against the fastest and against the thriftiest of theirs."""
    theirs, ours = ([line for line in lines if (line["side"] == "srch3") == mine] for mine in (False, True))
    fastest = min(theirs, key=lambda line: float(line["seconds"]))
    least = min(float(line["cpu_seconds"]) for line in theirs)
    thriftiest = min(theirs, key=lambda line: float(line["training_mib"]))
    return {
        "fastest": fastest["label"],
        "thriftiest": thriftiest["label"],
        "speed_ratio": [fastest["seconds"] / line["seconds"] for line in ours],
        "cpu_ratio": [least / line["cpu_seconds"] for line in ours],
        "speed_ratio_by_round": [
            [other / mine for other, mine in zip(fastest["seconds_by_round"], line["seconds_by_round"], strict=True)]
            for line in ours
        ],
        "memory_ratio": [line["training_mib"] / max(thriftiest["training_mib"], _LEAST_MIB) for line in ours],
        "process_memory_ratio": [line["process_mib"] / thriftiest["process_mib"] for line in ours],
    }


def _rows(results: Figures) -> list[tuple[str, list[tuple[str, ...]]]]:
    """For each shape its title and the cells of its lines."""
    groups = []
    for name, comparison in results["comparisons"].items():
        lines = [line for key, line in results["lines"].items() if results["shapes"][key] == name]
        fastest, least = (
            min(line[name] for line in lines if line["label"].startswith("TRL")) for name in ("seconds", "cpu_seconds")
        )
        groups.append((comparison["title"], [_cells(line, fastest, least) for line in lines]))
    return groups


def _cells(line: Figures, fastest: float, least: float) -> tuple[str, ...]:
    return (
        line["label"],
        f"{line['seconds']:.2f}",
        f"{fastest / line['seconds']:.2f}",
        f"{line['cpu_seconds']:.2f}",
        f"{least / line['cpu_seconds']:.2f}",
        f"{line['training_mib']:,.0f}",
        f"{line['tokens']:,.0f}",
        f"{line['padding']:.0%}",
        f"{line['completion_tokens']:.1f}",
    )


def _equality_rows(results: Figures) -> list[tuple[str, ...]]:
    return [
        (
            title,
            f"{case['their_loss']:.6f}",
            f"{case['our_loss']:.6f}",
            f"{case['clipped']:.0%}",
            f"{case['gradient_difference']:.0e}",
        )
        for title, case in results["equality"].items()
    ]


def sentences(results: Figures) -> list[str]:
    """What the tables do not hold."""
    cases = results["equality"].values()
    rounds = [ratio for comparison in results["comparisons"].values() for ratio in comparison["speed_ratio_by_round"]]
    ratios = [ratio for comparison in results["comparisons"].values() for ratio in comparison["process_memory_ratio"]]
    return [
        f"Losses differ by at most {max(case['loss_difference'] for case in cases):.0e}, gradients by at most "
        f"{max(case['gradient_difference'] for case in cases):.0e} of the largest entry of the same parameter.",
        f"In single rounds, ours were {min(map(min, rounds)):.2f} to {max(map(max, rounds)):.2f} times as fast as the "
        "faster of theirs.",
        f"Whole processes, with all libraries, took {min(ratios):.2f} to {max(ratios):.2f} times the memory of the "
        "thriftier of theirs.",
    ]


def show(results: Figures) -> Group:
    """The figures for a console."""
    equality = _table("the same completions, rewards and log-probabilities", EQUALITY_HEADINGS)
    for cells in _equality_rows(results):
        equality.add_row(*map(Text, cells))
    steps = _table(f"threads: {results['threads']}, {results['seconds']} s in all", HEADINGS)
    for title, rows in _rows(results):
        steps.add_row(Text(title, style="bold"))
        for cells in rows:
            steps.add_row(*map(Text, cells))
        steps.add_section()
    return Group(equality, steps, Text("\n".join(sentences(results))))


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


def markdown(results: Figures) -> str:
    """The same for the README."""
    lines = [*_headings(EQUALITY_HEADINGS), *(f"| {' | '.join(cells)} |" for cells in _equality_rows(results)), ""]
    lines += _headings(HEADINGS)
    for title, rows in _rows(results):
        lines.append(f"| **{title}** |" + " |" * (len(HEADINGS) - 1))
        lines += [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in sentences(results))])


def _headings(headings: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(headings)} |", "|---|" + "---:|" * (len(headings) - 1)]


if __name__ == "__main__":
    print(markdown(json.loads(RESULTS.read_text(encoding="utf-8"))))
