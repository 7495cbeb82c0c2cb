"""Ways of keeping an index up to date, side by side.

Prints tables, and writes the figures.
"""

import sys
import time
from collections.abc import Sequence

import torch
from rich.console import Console

from experiments.benchmarks.index.measure import life, measure
from experiments.benchmarks.index.report import markdown, summarise
from experiments.benchmarks.index.settings import parse
from experiments.benchmarks.program import publish


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison.

    Args:
        arguments: The command line; by default what the shell was given.

    Returns:
        The exit code.
    """
    settings = parse(arguments)
    torch.set_num_threads(1)
    console = Console(highlight=False)
    began = time.perf_counter()

    def say(what: str) -> None:
        console.print(f"{time.perf_counter() - began:.0f} s, {what}", markup=False)

    moves = life(settings, say)
    measured = {size.name: measure(settings, size, say) for size in settings.sizes}
    results = summarise(settings, measured, moves, time.perf_counter() - began)
    print(markdown(results))
    publish(results, settings.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
