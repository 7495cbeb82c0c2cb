"""What can be chosen about the comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from experiments.benchmarks.program import destinations, make_parser

RESULTS = Path(__file__).parent / "results.json"
PROGRAM = "experiments.benchmarks.encode.run"

Side = Literal["sentence-transformers", "srch3"]
Kind = Literal["float32", "bfloat16"]
SIDES: tuple[Side, Side] = ("sentence-transformers", "srch3")
KINDS: tuple[Kind, Kind] = ("float32", "bfloat16")


class Model(NamedTuple):
    """A Qwen2 and what it encodes.

    Attributes:
        name: Of its folder.
        width: Of its hidden states.
        layers: Its depth.
        heads: Its attention heads.
        key_heads: Heads of keys and values.
        feed_forward: Width of its feed-forward layers.
        vocabulary: Tokens it knows, without the embed token.
        steps: Of contrastive training, 64 pairs each; 0 leaves its weights random.
        documents: How many are encoded.
    """

    name: str
    width: int
    layers: int
    heads: int
    key_heads: int
    feed_forward: int
    vocabulary: int
    steps: int
    documents: int

    @property
    def title(self) -> str:
        """What it is called in the tables."""
        weights = f"trained for {self.steps} steps" if self.steps else "random weights"
        return f"{self.width} wide, {self.layers} layers, {weights}; {self.documents:,} documents"


class Settings(NamedTuple):
    """One run of the comparison.

    Attributes:
        models: What is measured with.
        rounds: How often each side encodes, in turns.
        threads: Of the process.
        seed: Of weights and order of training.
        small: Whether the texts are two packages of the standard library alone.
        output: Folder for the models.
        results: Receives the figures.
    """

    models: list[Model]
    rounds: int
    threads: int
    seed: int
    small: bool
    output: Path
    results: Path


def parse(arguments: Sequence[str] | None) -> Settings:
    """Reads a command line.

    Args:
        arguments: What follows the program's name; by default what the shell was given.
    """
    parser = make_parser(PROGRAM, __doc__, "weights and order of training")
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="measurements of each side (%(default)s)")
    add("--threads", type=int, default=2, help="threads of the process (%(default)s)")
    add("--steps", type=int, default=150, help="steps that the small model is trained for (%(default)s)")
    add("--documents", type=int, default=3000, help="documents for the small model (%(default)s)")
    add("--large-documents", type=int, default=160, help="documents for the large model (%(default)s)")
    given = parser.parse_args(arguments)
    output, results = destinations(given, RESULTS)
    if given.smoke:
        return Settings([Model("tiny", 32, 2, 2, 2, 96, 600, 3, 60)], 2, 1, given.seed, True, output, results)
    models = [
        Model("small", 128, 2, 4, 4, 384, 4096, given.steps, given.documents),
        Model("large", 896, 6, 14, 2, 4864, 16384, 0, given.large_documents),
    ]
    return Settings(models, given.rounds, given.threads, given.seed, False, output, results)
