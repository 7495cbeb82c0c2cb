"""What can be chosen about the comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.benchmarks.program import destinations, make_parser

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
    parser = make_parser(PROGRAM, __doc__, "everything drawn")
    given = parser.parse_args(arguments)
    _, results = destinations(given, RESULTS)
    if given.smoke:
        return Settings([Size(400, 16)], [0.05, 0.2], [8, 16], 10, 400, given.seed, results)
    sizes = [Size(10_000, 128), Size(10_000, 256), Size(100_000, 128), Size(100_000, 256)]
    return Settings(sizes, [0.01, 0.05, 0.2], [64, 512], 100, 20_000, given.seed, results)
