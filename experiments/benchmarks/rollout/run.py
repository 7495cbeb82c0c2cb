"""Sampling of thoughts against `generate` of transformers: same model, prompts and sampling, in one process.

Prints tables, and writes the figures.
"""

import os
import sys
import time
from collections.abc import Sequence

import torch
import transformers
from rich.console import Console

from experiments.benchmarks.program import publish
from experiments.benchmarks.rollout.measure import measure
from experiments.benchmarks.rollout.report import markdown, summarise
from experiments.benchmarks.rollout.settings import parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison.

    Args:
        arguments: The command line; by default what the shell was given.

    Returns:
        The exit code.
    """
    settings = parse(arguments, "cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(settings.threads)
    transformers.utils.logging.disable_progress_bar()
    console = Console(highlight=False)
    began, load = time.perf_counter(), os.getloadavg()[0]
    measured = {
        model.name: measure(settings, model, lambda what: console.print(what, markup=False))
        for model in settings.models
    }
    results = summarise(settings, measured, time.perf_counter() - began, [load, os.getloadavg()[0]])
    print(markdown(results))
    publish(results, settings.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
