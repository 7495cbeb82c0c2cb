"""The results as a picture: nDCG@10 of every variant, on the test queries and on the unseen ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.stage1.tables import METRIC, MODES, Variants

COLOURS = {"thinking": "tab:blue", "direct": "tab:orange"}


def plot(results: Mapping[str, Any], variants: Variants, path: Path) -> Path:
    """Draws a panel for each split but dev; error bars are standard deviations over seeds, the line is BM25.

    Args:
        results: As ``results.summarise`` gives them.
        variants: Of the experiment.
        path: Of the picture.

    Returns:
        The same path.
    """
    splits = [split for split in results["bm25"] if split != "dev"]
    names = list(results["figures"])
    figure = Figure(figsize=(1 + 5.5 * len(splits), 1.2 + 0.36 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, splits, strict=True):
        _bars(axes, results, variants, split)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    panels[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=120)
    return path


def _bars(axes: Axes, results: Mapping[str, Any], variants: Variants, split: str) -> None:
    for mode, shift in zip(MODES, (-0.2, 0.2), strict=True):
        rows = [row for row, name in enumerate(results["figures"]) if mode in variants[name].modes]
        figures = [list(results["figures"].values())[row][split][mode][METRIC] for row in rows]
        axes.barh(
            [row + shift for row in rows],
            [figure["mean"] for figure in figures],
            height=0.38,
            xerr=[figure["std"] or 0.0 for figure in figures],
            color=COLOURS[mode],
            label=mode,
        )
    axes.axvline(results["bm25"][split][METRIC], color="black", linestyle=":", label="BM25")
    axes.set_title(f"nDCG@10, {results['queries'][split]:,} {split} queries", loc="left")
