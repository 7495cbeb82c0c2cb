"""What can be chosen about the comparison."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from experiments.benchmarks.program import destinations, make_parser

RESULTS = Path(__file__).parent / "results.json"
PROGRAM = "experiments.benchmarks.rollout.run"


class Model(NamedTuple):
    """A Qwen2 with random weights.

    Attributes:
        width: Of its hidden states.
        layers: Its depth.
        heads: Its attention heads.
        vocabulary: Tokens it knows, without the embed token.
    """

    width: int
    layers: int
    heads: int
    vocabulary: int

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return f"{self.width} wide, {self.layers} layers, {self.vocabulary:,} tokens"


class Shape(NamedTuple):
    """One task for both sides.

    Attributes:
        prompts: How many.
        samples: Completions of each.
        prompt_tokens: Length of every prompt.
        shortest: Completions have between so many tokens …
        longest: … and so many, each length being as likely as any other.
        greedy: Whether the likeliest token is taken each time.
    """

    prompts: int
    samples: int
    prompt_tokens: int
    shortest: int
    longest: int
    greedy: bool = False

    @property
    def name(self) -> str:
        """What it is called in the table."""
        tokens = f"{self.longest}" if self.shortest == self.longest else f"{self.shortest}-{self.longest}"
        kind = ", greedy" if self.greedy else ""
        return f"{self.prompts} x {self.samples}, {self.prompt_tokens} to {tokens}{kind}"


class Settings(NamedTuple):
    """One run of the comparison.

    Attributes:
        models: What is measured with.
        shapes: What is measured.
        rounds: How often each side does each shape, in turns.
        threads: Of the process.
        seed: Of weights, prompts and samples.
        device: Where the models are.
        results: Receives the figures.
    """

    models: list[Model]
    shapes: list[Shape]
    rounds: int
    threads: int
    seed: int
    device: str
    results: Path


def parse(arguments: Sequence[str] | None, device: str) -> Settings:
    """Reads a command line.

    Args:
        arguments: What follows the program's name; by default what the shell was given.
        device: Where models are, unless the command line says so.
    """
    parser = make_parser(PROGRAM, __doc__, "weights, prompts and samples")
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="measurements of each side (%(default)s)")
    add("--threads", type=int, default=2, help="threads of the process (%(default)s)")
    add("--device", default=device, help="where the models are (%(default)s)")
    given = parser.parse_args(arguments)
    _, results = destinations(given, RESULTS)
    if given.smoke:
        shapes = [Shape(2, 4, 16, 2, 6), Shape(1, 1, 8, 6, 6), Shape(2, 1, 8, 6, 6, greedy=True)]
        return Settings([Model(32, 1, 2, 300)], shapes, 2, 1, given.seed, given.device, results)
    models = [Model(128, 2, 4, 4096), Model(256, 6, 4, 16384)]
    return Settings(models, _shapes(), given.rounds, given.threads, given.seed, given.device, results)


def _shapes() -> list[Shape]:
    sampled = [
        Shape(prompts, samples, length, shortest, 64)
        for samples, prompts, length, shortest in product((8, 1), (1, 8, 16), (48, 256), (8, 64))
        if prompts * samples > 1 or shortest == 64  # a single completion does not end before others
    ]
    greedy = [Shape(prompts, 1, length, 64, 64, greedy=True) for prompts, length in product((1, 8, 16), (48, 256))]
    return sampled + greedy
