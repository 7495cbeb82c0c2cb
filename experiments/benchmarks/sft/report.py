"""From measurements to figures, and from figures to tables.

``python -m experiments.benchmarks.sft.report`` prints those of ``results.json`` as the README has them.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from experiments.benchmarks.sft.settings import RESULTS, Line, Order, Settings
from experiments.surroundings import surroundings

Figures = Mapping[str, Any]

HEADINGS = ("training", "pairs/s", "ratio", "nDCG@10", "padding", "of the bare model", "MiB")
_PACKAGES = ("torch", "transformers", "sentence-transformers", "lightning")


def summarise(
    settings: Settings, data: Figures, floor: Figures, measured: Mapping[str, Sequence[Figures]], seconds: float
) -> dict[str, Any]:
    """What the run says.

    Args:
        settings: Of the run.
        data: What was prepared.
        floor: Seconds per token of the bare model.
        measured: By line, what each round gave.
        seconds: What the run took.
    """
    lines = {line.name: _line(line, measured[line.name], floor) for line in settings.lines}
    return {
        "comparisons": {order.name: _comparison(order, settings, lines) for order in settings.orders},
        "memory": _memory(lines["ours"], lines["ours_cached"]),
        "lines": lines,
        "bare_model": {name: round(1 / value) for name, value in floor.items()},
        "data": data,
        "setup": {name: value for name, value in settings.setup._asdict().items() if name != "folder"},
        "orders": [order._asdict() for order in settings.orders],
        "threads": settings.threads,
        "seconds": round(seconds),
        **surroundings(*_PACKAGES),
    }


def _line(line: Line, rounds: Sequence[Figures], floor: Figures) -> dict[str, Any]:
    rates = [_rates(line.order, figures["seconds"]) for figures in rounds]
    first = rounds[0]
    pairs = line.order.batch_size * line.order.steps
    rate = statistics.median(rate for some in rates for rate in some)
    return {
        "label": line.label,
        "pairs_per_second": rate,
        "pairs_per_second_by_round": [statistics.median(some) for some in rates],
        "pairs_per_cpu_second": [pairs / sum(figures["cpu_seconds"]) for figures in rounds],
        "ndcg@10": first["ndcg@10"],
        "losses": first["losses"],
        "padding": first["padding"] / first["tokens"],
        "tokens_per_pair": first["tokens"] / pairs,
        "forward_passes_per_step": first["passes"] / line.order.steps,
        "of_bare_model": rate * _bare_seconds(line, (first["tokens"] - first["padding"]) / pairs, floor),
        "training_mib": max(figures["peak_mib"] - figures["held_mib"] for figures in rounds),
        "peak_mib": max(figures["peak_mib"] for figures in rounds),
    }


def _rates(order: Order, seconds: Sequence[float]) -> list[float]:
    """Pairs per second in each whole block after the warm-up."""
    counted = seconds[order.warmup :]
    starts = range(0, len(counted) - order.block + 1, order.block)
    return [order.batch_size * order.block / sum(counted[start : start + order.block]) for start in starts]


def _bare_seconds(line: Line, tokens: float, floor: Figures) -> float:
    """What the bare model takes for a pair of so many tokens; with cached gradients, they pass twice."""
    if line.cache is None:
        return tokens * float(floor["forward_and_backward"])
    return tokens / 2 * float(floor["forward"] + floor["forward_and_backward"])


def _comparison(order: Order, settings: Settings, lines: Mapping[str, Figures]) -> dict[str, Any]:
    theirs, ours = (lines[line.name] for line in settings.lines if line.order == order)
    rounds = zip(ours["pairs_per_second_by_round"], theirs["pairs_per_second_by_round"], strict=True)
    ratios = [mine / other for mine, other in rounds]
    gaps = [abs(mine - other) for mine, other in zip(ours["losses"], theirs["losses"], strict=True)]
    return {
        "title": order.title,
        "speed_ratio": statistics.median(ratios),
        "speed_ratio_by_round": ratios,
        "ndcg_difference": ours["ndcg@10"] - theirs["ndcg@10"],
        "first_loss_difference": gaps[0],
        "largest_loss_difference": max(gaps),
    }


def _memory(kept: Figures, cached: Figures) -> dict[str, float]:
    return {
        "ratio_of_training": cached["training_mib"] / kept["training_mib"],
        "ratio_of_process": cached["peak_mib"] / kept["peak_mib"],
    }


def _rows(results: Figures) -> list[list[tuple[str, ...]]]:
    """For each order the cells of theirs and of ours."""
    lines = iter(results["lines"].values())
    groups = []
    for comparison in results["comparisons"].values():
        theirs, ours = next(lines), next(lines)
        groups.append([_cells(theirs, "1"), _cells(ours, f"{comparison['speed_ratio']:.2f}")])
    return groups


def _cells(line: Figures, ratio: str) -> tuple[str, ...]:
    return (
        line["label"],
        f"{line['pairs_per_second']:.1f}",
        ratio,
        f"{line['ndcg@10']:.4f}",
        f"{line['padding']:.1%}",
        f"{line['of_bare_model']:.0%}",
        f"{line['training_mib']:,.0f}",
    )


def sentences(results: Figures) -> list[str]:
    """What the table does not hold."""
    first, largest = (
        max(comparison[f"{name}_loss_difference"] for comparison in results["comparisons"].values())
        for name in ("first", "largest")
    )
    memory, lines = results["memory"], results["lines"]
    return [
        f"The losses of the first steps differ by at most {first:.0e}, those of all steps by at most {largest:.0e}.",
        f"Training ours on {results['orders'][-1]['batch_size']:,} cached pairs takes "
        f"{memory['ratio_of_training']:.2f} times the memory of {results['orders'][0]['batch_size']} pairs; the whole "
        f"process, with all libraries, {memory['ratio_of_process']:.2f} times "
        f"({lines['ours_cached']['peak_mib']:,.0f} and {lines['ours']['peak_mib']:,.0f} MiB).",
    ]


def show(results: Figures) -> Group:
    """The figures for a console."""
    held = f"{results['data']['held_out_pairs']:,} held-out queries"
    title = f"{held}, threads: {results['threads']}, {results['seconds']} s in all"
    table = Table(title=title, title_justify="left", title_style="")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number else "left")
    for comparison, rows in zip(results["comparisons"].values(), _rows(results), strict=True):
        table.add_row(Text(comparison["title"], style="bold"))
        for cells in rows:
            table.add_row(*map(Text, cells))
        table.add_section()
    return Group(table, Text("\n".join(sentences(results))))


def markdown(results: Figures) -> str:
    """The same for the README."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---|" + "---:|" * (len(HEADINGS) - 1)]
    for comparison, rows in zip(results["comparisons"].values(), _rows(results), strict=True):
        lines.append(f"| **{comparison['title']}** |" + " |" * (len(HEADINGS) - 1))
        lines += [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in sentences(results))])


if __name__ == "__main__":
    print(markdown(json.loads(RESULTS.read_text(encoding="utf-8"))))
