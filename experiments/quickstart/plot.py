"""The report as a picture: how training went, and what came of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.quickstart.curves import Row, read_curves, series
from experiments.quickstart.report import CONTROLS, ROWS, figures_of

SFT_TERMS = {"cross_entropy": "cross-entropy", "base_kl": "KL to the base", "info_nce": "InfoNCE"}


def plot(report: Mapping[str, Any], output: Path) -> Path:
    """Draws ``plot.png``.

    Args:
        report: As ``report.json`` has it.
        output: Folder of the whole run, where the stages' curves are too.

    Returns:
        The file.
    """
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    losses, reward, bars = figure.subplots(1, 3, width_ratios=(1, 1, 1.4))
    _losses(losses, read_curves(output / "sft"))
    _rewards(reward, read_curves(output / "rl"))
    _bars(bars, report)
    path = output / "plot.png"
    figure.savefig(path, dpi=120)
    return path


def _losses(axes: Axes, rows: list[Row]) -> None:
    terms = {label: series(rows, f"train/{name}") for name, label in SFT_TERMS.items()}
    _lines(axes, "stage 1: losses, nats", terms)


def _rewards(axes: Axes, rows: list[Row]) -> None:
    curves = {"reward of sampled thoughts": series(rows, "train/reward"), "val nDCG@10": series(rows, "val/ndcg@10")}
    _lines(axes, "stage 2: reward", curves)


def _lines(axes: Axes, title: str, curves: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> None:
    axes.set_title(title, loc="left")
    axes.set_xlabel("optimizer step")
    for label, (steps, values) in curves.items():
        if steps:
            axes.plot(steps, values, label=label, marker="o" if len(steps) < 10 else None, markersize=3)
    if axes.lines:
        axes.legend(frameon=False, fontsize="small")


def _bars(axes: Axes, report: Mapping[str, Any]) -> None:
    names = {**ROWS, **CONTROLS}
    values = [figures_of(report, name)["ndcg@10"] for name in names]
    colours = ["tab:blue" if name in ROWS else "tab:gray" for name in names]
    drawn = axes.barh(list(names.values()), values, color=colours)
    axes.bar_label(drawn, [f"{value:.3f}" for value in values], padding=3, fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(f"nDCG@10, {report['queries']:,} held-out queries (gray: controls)", loc="left")
