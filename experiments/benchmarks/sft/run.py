"""Stage 1's contrastive training against sentence-transformers' trainer, on the same task.

Prepares texts, a model and an order of training; then both sides train from the same weights on the same batches, in
turns, each time in a process of its own. Prints a table, and writes the figures.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from experiments.benchmarks.program import publish
from experiments.benchmarks.sft import worker
from experiments.benchmarks.sft.report import show, summarise
from experiments.benchmarks.sft.settings import Settings, Task, parse
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
    setup = settings.setup._asdict()
    console.print("texts, model, order of training …")
    data = _do(settings, "prepare", {"setup": setup, "orders": [order._asdict() for order in settings.orders]})
    console.print("what the bare model could do …")
    floor = _do(settings, "floor", {"setup": setup})
    measured: dict[str, list[dict[str, Any]]] = {line.name: [] for line in settings.lines}
    for order in settings.orders:
        sides = [line for line in settings.lines if line.order == order]
        for turn in range(order.rounds):
            for line in sides if turn % 2 == 0 else sides[::-1]:
                console.print(f"{order.title}: {line.label} …", markup=False)
                task = Task(settings.setup, line, evaluate=turn == 0)
                measured[line.name].append(_do(settings, "measure", task.plain()))
    return summarise(settings, data, floor, measured, time.perf_counter() - began)


def _do(settings: Settings, job: str, task: dict[str, Any]) -> dict[str, Any]:
    """Has a job done in a process of its own, or here."""
    if not settings.separately:
        return worker.work(job, task)
    return apart(worker.MODULE, job, task, settings.threads)


if __name__ == "__main__":
    sys.exit(main())
