"""What came of an experiment: all figures in one JSON file, and their means and spreads over seeds."""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bm25 import bm25_hits
from experiments.stage1.jobs import Figures, Report
from experiments.stage1.settings import Settings
from experiments.stage1.variants import VARIANTS, Variant
from experiments.surroundings import surroundings
from srch3.data import BeirDataModule, RetrievalDataModule
from srch3.metrics import query_scores

LINE = 120
PACKAGES = ("torch", "lightning", "transformers", "bm25s")


def summarise(
    settings: Settings, program: str, variants: Mapping[str, Variant], reports: Mapping[str, Sequence[Report]]
) -> dict[str, Any]:
    """Everything that is known about an experiment, the figures first.

    Args:
        settings: Of the experiment.
        program: Dotted name of what was run.
        variants: All that were asked for.
        reports: Of those that are finished, one per seed.
    """
    counts, bm25 = measure_bm25(settings)
    return {
        "figures": {name: over_seeds([report.figures or {} for report in some]) for name, some in reports.items()},
        "bm25": bm25,
        "seeds": list(settings.seeds),
        "seconds": {name: [report.seconds for report in some] for name, some in reports.items()},
        **counts,
        "command": command(settings, program),
        "options": {name: variants[name].options for name in reports},
        **surroundings(*PACKAGES),
    }


def command(settings: Settings, program: str) -> str:
    """What to type for these figures, wherever the data are."""
    words = ["--seeds", *map(str, settings.seeds), "--jobs", str(settings.jobs)]
    if settings.variants and set(settings.variants) != set(VARIANTS):
        words += ["--variants", *settings.variants]
    if settings.steps is not None:
        words += ["--steps", str(settings.steps)]
    return " ".join(["python", "-m", program, "--root", "BEIR_FOLDER", *words])


def over_seeds(figures: Sequence[Figures]) -> dict[str, Any]:
    """By split, mode and metric: mean, standard deviation (null for one seed) and the figure of each seed."""
    return {
        split: {
            mode: {metric: spread([one[split][mode][metric] for one in figures]) for metric in metrics}
            for mode, metrics in modes.items()
        }
        for split, modes in figures[0].items()
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation and the values themselves."""
    deviation = round(statistics.stdev(values), 6) if len(values) > 1 else None
    return {"mean": round(statistics.fmean(values), 6), "std": deviation, "per_seed": list(values)}


def measure_bm25(settings: Settings) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Sizes of the data set, and BM25's figures on each split."""
    splits = settings.splits().items()
    return bm25_of({split: BeirDataModule(str(settings.root), test_split=name) for split, name in splits})


def bm25_of(splits: Mapping[str, RetrievalDataModule]) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Sizes of a data set, and BM25's figures on the test queries of each of several modules."""
    queries, figures, documents = {}, {}, 0
    for split, data in splits.items():
        asked, corpus = data.queries("test"), data.corpus("test")
        hits = bm25_hits([query.text for query in asked], corpus)
        scores = query_scores(hits, [query.relevant for query in asked], corpus)
        figures[split] = {name: round(float(values.double().mean()), 6) for name, values in scores.items()}
        queries[split], documents = len(asked), len(corpus)
    return {"queries": queries, "documents": documents}, figures


def dump(content: Any, indent: int = 0) -> str:
    """JSON in which whatever fits on a line stands on one."""
    line = json.dumps(content, ensure_ascii=False)
    if len(line) + indent <= LINE or not isinstance(content, dict | list):
        return line
    if isinstance(content, list):
        parts, (left, right) = [dump(part, indent + 1) for part in content], "[]"
    else:
        parts, (left, right) = [f"{json.dumps(key)}: {dump(part, indent + 1)}" for key, part in content.items()], "{}"
    inner, outer = "\n" + " " * (indent + 1), "\n" + " " * indent
    return f"{left}{inner}{f',{inner}'.join(parts)}{outer}{right}"
