"""What can be chosen about the comparison."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "results.json"
PROGRAM = "experiments.benchmarks.index.run"


class Size(NamedTuple):
    """A corpus of embeddings.

    Attributes:
        documents: How many.
        width: Of each.
    """

    documents: int
    width: int

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return f"{self.documents:,} x {self.width}"


class Settings(NamedTuple):
    """One run of the comparison.

    Attributes:
        sizes: Corpora.
        shares: Of the documents that change.
        batches: Queries that are searched for together.
        k: Hits per query.
        collapse: Documents of the corpus that collapses, drifts and spreads again.
        seed: Of everything drawn.
        results: Receives the figures.
    """

    sizes: list[Size]
    shares: list[float]
    batches: list[int]
    k: int
    collapse: int
    seed: int
    results: Path


def parse(arguments: Sequence[str] | None) -> Settings:
    """Reads a command line.

    Args:
        arguments: What follows the program's name; by default what the shell was given.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--smoke", action="store_true", help="seconds instead of minutes, to see that everything works")
    add("--output", type=Path, default=Path("runs/benchmarks/index"), help="folder for what --smoke writes")
    add("--results", type=Path, help="receives the figures (default: beside this program; with --smoke in the output)")
    add("--seed", type=int, default=0, help="seed of everything drawn (%(default)s)")
    given = parser.parse_args(arguments)
    if given.smoke:
        results = given.results or given.output.with_name(f"{given.output.name}-smoke") / "results.json"
        return Settings([Size(400, 16)], [0.05, 0.2], [8, 16], 10, 400, given.seed, results)
    sizes = [Size(10_000, 128), Size(10_000, 256), Size(100_000, 128), Size(100_000, 256)]
    return Settings(sizes, [0.01, 0.05, 0.2], [64, 512], 100, 20_000, given.seed, given.results or RESULTS)
