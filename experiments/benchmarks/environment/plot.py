"""The results as a picture: error of the rewards against cost."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.benchmarks.environment.lines import BUDGETED, DEFAULT, every_line
from experiments.benchmarks.environment.report import LIMITS

COLOURS = dict(zip(BUDGETED, ("tab:gray", "tab:brown", "tab:green", "tab:orange", "tab:blue"), strict=True))
STYLES = {"none": ("o", ":"), "ridge": ("s", "-"), "rotation": ("^", "")}
COLUMNS = 3


def plot(results: Mapping[str, Any], path: Path) -> Path:
    """Draws mean absolute error over seconds per step, one panel per training run, budgets of a line joined.

    Args:
        results: As ``report.summarise`` gives them.
        path: Of the picture.

    Returns:
        The same path.
    """
    runs = results["trainings"]
    columns = min(COLUMNS, len(runs))
    rows = math.ceil(len(runs) / columns)
    figure = Figure(figsize=(5.2 * columns, 3.8 * rows + 0.9), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, (name, run) in zip(panels, runs.items(), strict=False):
        _panel(panel, name, run)
    for panel in panels[len(runs) :]:
        panel.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 * columns, frameon=False, fontsize="small")
    figure.savefig(path, dpi=120)
    return path


def _panel(axes: Axes, name: str, run: Mapping[str, Any]) -> None:
    axes.set_title(name, loc="left")
    axes.set_xlabel("seconds per step for keeping up")
    axes.set_ylabel("mean absolute error of rewards")
    axes.set(xscale="log", yscale="log")
    known = [line for line in every_line(smallest=True) if line.name in run["lines"]]
    for policy in BUDGETED:
        for correction, (marker, style) in STYLES.items():
            some = [x.name for x in known if (x.policy, x.correction, x.kind) == (policy, correction, "exact")]
            if some:
                cost = [run["lines"][x]["seconds"] for x in some]
                error = [run["lines"][x]["reward_mae"] for x in some]
                look: dict[str, Any] = {"marker": marker, "linestyle": style or "none", "color": COLOURS[policy]}
                label = policy if correction == "none" else f"{policy}, {correction}"
                axes.plot(cost, error, label=label, markersize=4, **look)
    if "never" in run["lines"]:
        axes.axhline(run["lines"]["never"]["reward_mae"], color="black", linestyle=":", linewidth=1, label="never")
    if "full" in run["lines"]:
        axes.axvline(
            run["lines"]["full"]["seconds"], color="black", linestyle="--", linewidth=1, label="full (no error)"
        )
    axes.axhline(LIMITS["reward_mae"], color="tab:red", linewidth=0.8, label=f"limit of {DEFAULT.name}")
