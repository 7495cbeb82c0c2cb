"""One step of the comparison in a process of its own, which loads only what it needs."""

import importlib
from typing import Any

import torch

from experiments.benchmarks.grpo.settings import Setup, Shape, Task
from experiments.benchmarks.worker import serve

MODULE = "experiments.benchmarks.grpo.worker"


def work(job: str, task: dict[str, Any]) -> dict[str, Any]:
    """Does a job.

    Args:
        job: ``prepare``, ``equality`` or ``measure``.
        task: What it needs to know, as JSON holds it.

    Returns:
        Its figures.
    """
    if job == "measure":
        return measure(Task.read(task))
    function: Any = getattr(importlib.import_module(f"experiments.benchmarks.grpo.{job}"), job)
    shapes = [Shape(**shape) for shape in task["shapes"]]
    return dict(function(Setup(**task["setup"]), shapes if job == "prepare" else shapes[0]))


def measure(task: Task) -> dict[str, Any]:
    """Trains one line's model for a few steps, and says what that took; ours does not load TRL.

    Args:
        task: What to measure.
    """
    torch.manual_seed(task.setup.seed)
    side = importlib.import_module(f"experiments.benchmarks.grpo.{'ours' if task.line.side == 'srch3' else 'theirs'}")
    return dict(side.train(task))


if __name__ == "__main__":
    serve(work)
