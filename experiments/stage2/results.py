"""What came of the experiment: all figures in one JSON file, their spreads over seeds, and the course of training."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from experiments.quickstart.curves import Row, read_curves, series
from experiments.stage1.commands import Job
from experiments.stage1.jobs import read_report
from experiments.stage1.results import PACKAGES, bm25_of, over_seeds
from experiments.stage2.commands import training_time
from experiments.stage2.settings import Settings
from experiments.stage2.variants import VARIANTS
from experiments.surroundings import surroundings

CURVES = {"reward": "train/reward", "val": "val/ndcg@10"}
PARTS = 10


def summarise(settings: Settings, program: str, jobs: Mapping[str, Sequence[Job]]) -> dict[str, Any]:
    """Everything that is known about an experiment, the figures first.

    Args:
        settings: Of the experiment.
        program: Dotted name of what was run.
        jobs: Of the variants that are finished, one per seed.
    """
    counts, bm25 = bm25_of(settings.data.test_data())
    reports = {name: [read_report(job, settings.output).figures or {} for job in some] for name, some in jobs.items()}
    times = {name: [training_time(settings, job) for job in some] for name, some in jobs.items()}
    return {
        "figures": {name: over_seeds(some) for name, some in reports.items()},
        "bm25": bm25,
        "seeds": list(settings.seeds),
        "steps": {name: [steps for steps, _ in some] for name, some in times.items()},
        "seconds": {name: [round(seconds, 3) for _, seconds in some] for name, some in times.items()},
        "curves": {name: found for name, some in jobs.items() if (found := curves(settings, some))},
        **counts,
        "command": command(settings, program),
        "options": {name: VARIANTS[name].options for name in jobs if name in VARIANTS},
        **surroundings(*PACKAGES),
    }


def command(settings: Settings, program: str) -> str:
    """What to type for these figures, wherever the data are."""
    words = ["--root", "BEIR_FOLDER"] if settings.data.root else ["--quickstart"]
    words += ["--seeds", *map(str, settings.seeds), "--jobs", str(settings.jobs)]
    if set(settings.variants) != set(VARIANTS):
        words += ["--variants", *settings.variants]
    for name, steps in (("--steps", settings.steps), ("--stage1-steps", settings.stage1_steps)):
        words += [name, str(steps)] if steps is not None else []
    return " ".join(["python", "-m", program, *words])


def curves(settings: Settings, jobs: Sequence[Job]) -> dict[str, Any]:
    """How rewards, and nDCG@10 in validation, went in each seed; nothing where there were no rewards."""
    logged = [read_curves(settings.output / job.name / "logs") for job in jobs]
    if not all(series(rows, CURVES["reward"])[0] for rows in logged):
        return {}
    return {name: _curve(logged, metric) for name, metric in CURVES.items()}


def _curve(logged: Sequence[list[Row]], metric: str) -> dict[str, Any]:
    found = [series(rows, metric) for rows in logged]
    return {
        "steps": means_of_parts([step + 1 for step in found[0][0]]),
        "per_seed": [means_of_parts(values) for _, values in found],
    }


def means_of_parts(values: Sequence[float]) -> list[float]:
    """The mean of each tenth of a course; the values themselves where they are ten or fewer."""
    count = min(PARTS, len(values))
    bounds = [len(values) * part // count for part in range(count + 1)]
    parts = [values[first:last] for first, last in pairwise(bounds)]
    return [round(sum(part) / len(part), 6) for part in parts]
