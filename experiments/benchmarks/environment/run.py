"""What keeping the index up costs, and how wrong the rewards are: every policy in the same training run.

Prints tables, and writes the figures and a plot. What is finished is kept, and the same command goes on from there.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.environment.million import simulate
from experiments.benchmarks.environment.plot import plot
from experiments.benchmarks.environment.report import markdown, summarise
from experiments.benchmarks.environment.settings import Settings, parse
from experiments.benchmarks.environment.training import make_model, train

TYPICAL = {"moved": 1.4e-4, "own": 3e-5}
"""How far a step moves documents, where no training run was measured yet."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison.

    Args:
        arguments: The command line; by default what the shell was given.

    Returns:
        The exit code.
    """
    settings = parse(arguments)
    torch.set_num_threads(settings.threads)
    if settings.smoke and settings.trainings:
        make_model(settings.model)
    for training in settings.trainings:
        asked = training.plain() | {"model": str(settings.model), "init_from": settings.init_from}
        _once(settings, training.name, asked, partial(train, settings, training))
    for simulation in settings.simulations:
        moves = measured_moves(settings.output)
        _once(
            settings,
            simulation.name,
            simulation.plain() | {"moves": moves},
            partial(_apart, simulate, simulation, moves),
        )
    print(markdown(publish(settings)))
    print(f"figures: {settings.results}")
    return 0


def _once(settings: Settings, name: str, asked: dict[str, Any], work: Callable[[], dict[str, Any]]) -> None:
    """Does what no earlier run with the same settings finished, and publishes it."""
    path = settings.output / f"{name}.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["settings"] == asked:
        print(f"{name}: finished earlier")
        return
    print(f"{name}: begins", flush=True)
    content = {"name": name, "settings": asked, "figures": work()}
    settings.output.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content) + "\n", encoding="utf-8")
    unfinished.replace(path)
    publish(settings)


def _apart(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Works in a new process, so that the memory it holds is its own."""
    with ProcessPoolExecutor(1, get_context("spawn"), _begin, (torch.get_num_threads(),)) as processes:
        return processes.submit(work, *arguments).result()


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)


def publish(settings: Settings) -> dict[str, Any]:
    """Writes figures and plot of everything that is finished.

    Returns:
        The figures.
    """
    runs = sorted(finished(settings.output), key=lambda run: (run["settings"]["documents"], run["name"]))
    trainings = [run for run in runs if "rate" in run["settings"]]
    results = summarise(trainings, [run for run in runs if "kind" in run["settings"]])
    settings.results.parent.mkdir(parents=True, exist_ok=True)
    settings.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if trainings:
        plot(results, settings.results.with_name("plot.png"))
    return results


def finished(folder: Path) -> list[dict[str, Any]]:
    """What the files of a folder say, those that ``publish`` writes left out."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [content for content in contents if "figures" in content]


def measured_moves(folder: Path) -> dict[str, float]:
    """How far a step moves documents in the finished runs of the lowest learning rate, on average."""
    runs = [run for run in finished(folder) if run["figures"].get("step_seconds") and run["figures"]["moves"]]
    if not runs:
        return TYPICAL
    lowest = min((run["settings"]["rate"], run["settings"]["embedding_scale"]) for run in runs)
    some = [run for run in runs if (run["settings"]["rate"], run["settings"]["embedding_scale"]) == lowest]
    return {name: statistics.fmean(run["figures"]["moves"][name] for run in some) for name in TYPICAL}


if __name__ == "__main__":
    sys.exit(main())
