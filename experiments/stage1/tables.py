"""The results as Markdown."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.stage1.variants import VARIANTS, Variant

METRIC = "ndcg@10"
MODES = ("thinking", "direct")
NONE = "-"
CONTROLS = {
    "thinking": "with its own thought",
    "direct": "embedded at once",
    "empty": "with the thought left out",
    "shuffled": "with another query's thought",
}
Variants = Mapping[str, Variant]


def results_table(results: Mapping[str, Any], variants: Variants) -> str:
    """nDCG@10 of every variant on every split, with its difference to the first on the test queries.

    Args:
        results: As ``results.summarise`` gives them.
        variants: Of the experiment; the first is what the others are compared with.
    """
    splits = list(results["bm25"])
    columns = [(split, mode) for split in splits for mode in MODES]
    heads = [head for column in columns for head in _heads(*column)]
    rows = [["variant", *heads, "s"], ["---", *["---:"] * (len(heads) + 1)]]
    reference = next(iter(variants))
    for name in (name for name in variants if name in results["figures"]):
        cells = [cell for column in columns for cell in _cells(results, variants, name, reference, *column)]
        rows.append([name, *cells, f"{statistics.fmean(results['seconds'][name]):.0f}"])
    lexical = [cell for split, mode in columns for cell in _bm25(results["bm25"][split], split, mode)]
    return markdown([*rows, ["BM25", *lexical, NONE]])


def modes_table(results: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> str:
    """nDCG@10 of one variant in several modes, on every split.

    Args:
        results: As ``results.summarise`` gives them.
        name: Of the variant.
        labels: What to call each mode.
    """
    figures = results["figures"][name]
    rows = [[name, *figures], ["---", *["---:"] * len(figures)]]
    rows += [[label, *(mean(figures[split][mode][METRIC]) for split in figures)] for mode, label in labels.items()]
    return markdown(rows)


def variants_table(variants: Variants = VARIANTS) -> str:
    """What each variant asks and changes."""
    rows = [["variant", "what it asks", "options"], ["---", "---", "---"]]
    rows += [[name, some.question, f"`{some.options}`" if some.options else NONE] for name, some in variants.items()]
    return markdown(rows)


def _heads(split: str, mode: str) -> list[str]:
    head = f"{split}, {mode}"
    return [head, "difference"] if split == "test" else [head]


def _cells(
    results: Mapping[str, Any], variants: Variants, name: str, reference: str, split: str, mode: str
) -> list[str]:
    """A figure, and on the test queries its difference to that of the reference, seed by seed."""
    width = len(_heads(split, mode))
    if mode not in variants[name].modes:
        return [NONE] * width
    figure = results["figures"][name][split][mode][METRIC]
    other = results["figures"].get(reference)
    if other is None or name == reference:
        return [mean(figure), NONE][:width]
    paired = zip(figure["per_seed"], other[split][mode][METRIC]["per_seed"], strict=True)
    return [mean(figure), difference([mine - its for mine, its in paired])][:width]


def _bm25(figures: Mapping[str, float], split: str, mode: str) -> list[str]:
    """It knows no modes, and stands beside the direct one."""
    cells = [f"{figures[METRIC]:.3f}" if mode == "direct" else NONE, NONE]
    return cells[: len(_heads(split, mode))]


def mean(figure: Mapping[str, Any]) -> str:
    """Mean and spread of a figure."""
    return f"{figure['mean']:.3f}" + ("" if figure["std"] is None else f" ± {figure['std']:.3f}")


def difference(values: Sequence[float]) -> str:
    """Mean and spread of differences, with their sign."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):+.3f}{spread}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, whose second row says how its columns are aligned."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
