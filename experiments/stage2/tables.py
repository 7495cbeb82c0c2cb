"""The results as Markdown."""

import statistics
from collections.abc import Mapping
from typing import Any

from experiments.stage1.tables import METRIC, NONE, difference, markdown, mean
from experiments.stage2.variants import FULL, STAGE_1, VARIANTS
from srch3.types import Mode

Results = Mapping[str, Any]
COLUMNS: dict[Mode, str] = {"thinking": "thinking", "mean-1": "sampled", "direct": "direct"}
SWAPS: dict[Mode, str] = {
    "empty": "left out",
    "shuffled": "another query's",
    "copied": "copy of the query",
    "mean-4": "mean of four sampled",
}
COMPARISONS: dict[str, tuple[tuple[str, Mode], tuple[str, Mode]]] = {
    "stage 2 over stage 1, thinking": ((FULL, "thinking"), (STAGE_1, "thinking")),
    "stage 2 over stage 1, one sampled thought": ((FULL, "mean-1"), (STAGE_1, "mean-1")),
    "what the policy gradient adds to the joint one, thinking": ((FULL, "thinking"), ("joint-only", "thinking")),
    "the same, one sampled thought": ((FULL, "mean-1"), ("joint-only", "mean-1")),
    "the policy gradient alone over stage 1, one sampled thought": (("policy-only", "mean-1"), (STAGE_1, "mean-1")),
    "thinking over direct embedding, both after stage 2": ((FULL, "thinking"), (FULL, "direct")),
    "thinking after stage 2 over the direct control, as many steps": ((FULL, "thinking"), ("direct", "direct")),
    "the same, as much time": ((FULL, "thinking"), ("direct-in-time", "direct")),
    "thinking after stage 2 over the pause control, as many steps": ((FULL, "thinking"), ("pause", "thinking")),
    "the same, as much time (pause)": ((FULL, "thinking"), ("pause-in-time", "thinking")),
    "its own thought over none, after stage 2": ((FULL, "thinking"), (FULL, "empty")),
    "its own thought over another query's, after stage 2": ((FULL, "thinking"), (FULL, "shuffled")),
    "its own thought over a copy of the query, after stage 2": ((FULL, "thinking"), (FULL, "copied")),
}
"""What is claimed, each as what should have the higher nDCG@10 and what the lower one."""


def comparisons_table(results: Results) -> str:
    """The claims, as differences seed by seed on every split; those whose variants were not run are left out."""
    splits = list(results["bm25"])
    rows = [["nDCG@10, difference", *splits], ["---", *["---:"] * len(splits)]]
    for label, (one, other) in COMPARISONS.items():
        if one[0] in results["figures"] and other[0] in results["figures"]:
            rows.append([label, *(_between(results, split, one, other) for split in splits)])
    return markdown(rows)


def results_table(results: Results, split: str) -> str:
    """nDCG@10 of every variant on a split, with its differences to stage 1 and to the full recipe, mode by mode."""
    heads = [head for label in COLUMNS.values() for head in (label, "to stage 1", "to full")]
    rows = [["variant", *heads, "steps", "s"], ["---", *["---:"] * (len(heads) + 2)]]
    for name in results["figures"]:
        cells = [cell for mode in COLUMNS for cell in _cells(results, split, name, mode)]
        took = [f"{statistics.fmean(results[unit][name]):,.0f}" for unit in ("steps", "seconds")]
        rows.append([name, *cells, *took])
    blank = [NONE] * (len(heads) - 3)
    return markdown([*rows, ["BM25", *blank, f"{results['bm25'][split][METRIC]:.3f}", *[NONE] * 4]])


def thoughts_table(results: Results, split: str) -> str:
    """How nDCG@10 changes where something else takes the place of a model's own likeliest thought."""
    rows = [["variant", "its own thought", *SWAPS.values()], ["---", *["---:"] * (1 + len(SWAPS))]]
    for name, figures in results["figures"].items():
        if set(SWAPS) <= set(figures[split]):
            own = (name, "thinking")
            swapped = [_between(results, split, (name, mode), own) for mode in SWAPS]
            rows.append([name, mean(figures[split]["thinking"][METRIC]), *swapped])
    return markdown(rows)


def rewards_table(results: Results) -> str:
    """The reward of sampled thoughts in the course of training: mean and spread over seeds of the steps around one."""
    if not results["curves"]:
        return ""
    curves = {name: curve["reward"] for name, curve in results["curves"].items()}
    first = next(iter(curves.values()))
    rows = [["reward", *(f"around step {step:.0f}" for step in first["steps"][::3])]]
    rows.append(["---", *["---:"] * (len(rows[0]) - 1)])
    for name, curve in curves.items():
        columns = list(zip(*curve["per_seed"], strict=True))[::3]
        rows.append([name, *(_spread(values) for values in columns)])
    return markdown(rows)


def variants_table() -> str:
    """What each variant asks and changes."""
    rows = [["variant", "what it asks", "options"], ["---", "---", "---"]]
    for name, some in VARIANTS.items():
        words = [*(["-c experiments/stage2/control.yaml"] if some.control else []), *some.options.split()]
        options = " ".join(words)
        rows.append([name, some.question, f"`{options}`" if options else NONE])
    return markdown(rows)


def _cells(results: Results, split: str, name: str, mode: Mode) -> list[str]:
    """A figure with its differences."""
    if mode not in results["figures"][name][split]:
        return [NONE] * 3
    others = [
        _between(results, split, (name, mode), (other, mode)) if other in results["figures"] and other != name else NONE
        for other in (STAGE_1, FULL)
    ]
    return [mean(results["figures"][name][split][mode][METRIC]), *others]


def _between(results: Results, split: str, one: tuple[str, str], other: tuple[str, str]) -> str:
    """One variant and mode less another, seed by seed."""
    mine, its = (results["figures"][name][split][mode][METRIC]["per_seed"] for name, mode in (one, other))
    return difference([a - b for a, b in zip(mine, its, strict=True)])


def _spread(values: tuple[float, ...]) -> str:
    return mean({"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None})
