"""One step of the comparison in a process of its own, which loads only what it needs."""

import importlib
from typing import Any

from experiments.benchmarks.sft.settings import Order, Setup, Task
from experiments.benchmarks.worker import serve

MODULE = "experiments.benchmarks.sft.worker"


def work(job: str, task: dict[str, Any]) -> dict[str, Any]:
    """Does a job.

    Args:
        job: ``prepare``, ``measure`` or ``floor``.
        task: What it needs to know, as JSON holds it.

    Returns:
        Its figures.
    """
    function: Any = getattr(importlib.import_module(f"experiments.benchmarks.sft.{job}"), job)
    setup = Setup(**task["setup"])
    if job == "prepare":
        figures = function(setup, [Order(**order) for order in task["orders"]])
    else:
        figures = function(Task.read(task)) if job == "measure" else function(setup)
    return dict(figures)


if __name__ == "__main__":
    serve(work)
