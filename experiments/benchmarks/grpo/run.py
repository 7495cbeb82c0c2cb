"""Stage 2's policy gradient against TRL's GRPO trainer: is it the same, and what does a step take?

Prepares a model and prompts, compares losses and gradients, and then both sides train in turns, each time in a process
of its own. Prints a table, and writes the figures.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from experiments.benchmarks.grpo import worker
from experiments.benchmarks.grpo.report import show, summarise
from experiments.benchmarks.grpo.settings import Settings, Task, parse
from experiments.benchmarks.program import publish
from experiments.benchmarks.worker import apart, explain


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison.

    Args:
        arguments: The command line; by default what the shell was given.

    Returns:
        The exit code: 1 where a process failed.
    """
    settings = parse(arguments)
    console = Console(highlight=False)
    try:
        results = _compare(settings, console)
    except subprocess.CalledProcessError as error:
        explain(error)
        return 1
    console.print(show(results))
    publish(results, settings.results)
    return 0


def _compare(settings: Settings, console: Console) -> dict[str, Any]:
    began = time.perf_counter()
    common = {"setup": settings.setup._asdict(), "shapes": [shape._asdict() for shape in settings.shapes]}
    console.print("model, prompts …")
    data = _do(settings, "prepare", common)
    console.print("losses and gradients …")
    equal = _do(settings, "equality", common)
    measured: dict[str, list[dict[str, Any]]] = {line.name: [] for line in settings.lines}
    for turn in range(settings.rounds):
        for line in settings.lines if turn % 2 == 0 else settings.lines[::-1]:
            console.print(f"{line.shape.title}: {line.label} …", markup=False)
            measured[line.name].append(_do(settings, "measure", Task(settings.setup, line).plain()))
    return summarise(settings, data, equal, measured, time.perf_counter() - began)


def _do(settings: Settings, job: str, task: dict[str, Any]) -> dict[str, Any]:
    """Has a job done in a process of its own, or here."""
    if not settings.separately:
        return worker.work(job, task)
    return apart(worker.MODULE, job, task, settings.threads)


if __name__ == "__main__":
    sys.exit(main())
