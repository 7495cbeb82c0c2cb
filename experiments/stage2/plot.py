"""The results as a picture: the course of training, and nDCG@10 before and after."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.stage1.tables import METRIC
from experiments.stage2.tables import COLUMNS
from experiments.stage2.variants import FULL

COLOURS = ("tab:blue", "tab:green", "tab:orange")


def plot(results: Mapping[str, Any], path: Path) -> Path:
    """Draws reward and validation over the steps, and the test figures; the band has all seeds of the full recipe.

    Args:
        results: As ``results.summarise`` gives them.
        path: Of the picture.

    Returns:
        The same path.
    """
    figure = Figure(figsize=(15, 1.8 + 0.36 * max(8, len(results["figures"]))), layout="constrained")
    reward, val, test = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    _course(reward, results["curves"], "reward", "reward of sampled thoughts")
    _course(val, results["curves"], "val", "val nDCG@10, thinking")
    _bars(test, results["figures"], results["bm25"]["test"][METRIC])
    figure.savefig(path, dpi=120)
    return path


def _course(axes: Axes, curves: Mapping[str, Any], name: str, title: str) -> None:
    axes.set_title(title, loc="left")
    axes.set_xlabel("optimizer step")
    for variant, curve in curves.items():
        steps, seeds = curve[name]["steps"], list(zip(*curve[name]["per_seed"], strict=True))
        means = [statistics.fmean(values) for values in seeds]
        (line,) = axes.plot(steps, means, marker="o", markersize=3, label=variant)
        if variant == FULL:
            low, high = [min(values) for values in seeds], [max(values) for values in seeds]
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    if curves:
        axes.legend(frameon=False, fontsize="small")


def _bars(axes: Axes, figures: Mapping[str, Any], bm25: float) -> None:
    axes.set_title("test nDCG@10", loc="left")
    for number, (mode, label) in enumerate(COLUMNS.items()):
        shown = [(row, some["test"][mode][METRIC]) for row, some in enumerate(figures.values()) if mode in some["test"]]
        axes.barh(
            [row + 0.27 * (number - 1) for row, _ in shown],
            [figure["mean"] for _, figure in shown],
            height=0.25,
            xerr=[figure["std"] or 0.0 for _, figure in shown],
            color=COLOURS[number],
            label=label,
        )
    axes.axvline(bm25, color="black", linestyle=":", label="BM25")
    axes.set_yticks(range(len(figures)), list(figures))
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize="small")
