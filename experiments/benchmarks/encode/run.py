"""Encoding of documents against sentence-transformers: same folder, same texts, in one process, in turns.

Prints tables, and writes the figures.
"""

import os
import sys
import time
from collections.abc import Sequence

import torch
import transformers
from rich.console import Console

from experiments.benchmarks.encode.measure import measure
from experiments.benchmarks.encode.prepare import make_folder, read_texts
from experiments.benchmarks.encode.report import markdown, summarise
from experiments.benchmarks.encode.settings import parse
from experiments.benchmarks.program import publish


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison.

    Args:
        arguments: The command line; by default what the shell was given.

    Returns:
        The exit code.
    """
    settings = parse(arguments)
    torch.set_num_threads(settings.threads)
    transformers.utils.logging.disable_progress_bar()
    console = Console(highlight=False)
    began, load = time.perf_counter(), os.getloadavg()[0]
    train, test = read_texts(settings)
    measured = {}
    for model in settings.models:
        console.print(f"{model.title}: making the model", markup=False)
        folder = make_folder(settings, model, train)
        note = console.print
        measured[model.name] = measure(settings, model, folder, test.first(model.documents), note)
    results = summarise(settings, measured, time.perf_counter() - began, [load, os.getloadavg()[0]])
    print(markdown(results))
    publish(results, settings.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
