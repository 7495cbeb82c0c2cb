"""What can be chosen about the comparison, and what a measured process is told."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.benchmarks.program import destinations, make_parser

RESULTS = Path(__file__).parent / "results.json"
PROGRAM = "experiments.benchmarks.grpo.run"

Side = Literal["srch3", "trl"]


class Setup(NamedTuple):
    """What both sides have in common.

    Attributes:
        folder: Holds what was prepared: the model and the prompts.
        seed: Of the initial weights and of the sampling.
        hidden_size: Width of the model.
        layers: Its depth.
        heads: Its attention heads.
        vocab_size: Of its tokenizer.
        stop_share: Share of the vocabulary that ends a completion, so that lengths are mixed.
        prompts: Per step.
        samples: Completions of each prompt.
        max_tokens: Of a completion.
        lr: Of AdamW.
        max_grad_norm: Longer gradients are clipped to it.
        steps: Optimizer steps of a measurement.
        warmup: Of these, so many do not count.
        files: Of the standard library, from which the prompts are cut.
    """

    folder: str
    seed: int = 0
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    vocab_size: int = 4096
    stop_share: float = 1 / 32
    prompts: int = 8
    samples: int = 8
    max_tokens: int = 64
    lr: float = 1e-4
    max_grad_norm: float = 1.0
    steps: int = 4
    warmup: int = 1
    files: int = 100


class Shape(NamedTuple):
    """What a step looks like, on both sides.

    Attributes:
        name: Of its files.
        title: What it is called in the table.
        prompt_tokens: Of every prompt.
        kl_weight: Of the divergence from the initial model; 0 for none.
    """

    name: str
    title: str
    prompt_tokens: int
    kl_weight: float = 0.0


class Line(NamedTuple):
    """One line of the comparison.

    Attributes:
        name: Its key in the results.
        side: Who trains.
        shape: What a step looks like.
        label: What it is called in the table.
        at_once: What one backward pass holds: of theirs so many completions, of ours so many tokens. None is all.
    """

    name: str
    side: Side
    shape: Shape
    label: str
    at_once: int | None = None


class Settings(NamedTuple):
    """One run of the comparison.

    Attributes:
        setup: What both sides have in common.
        lines: What is measured; of each shape theirs first.
        rounds: How often each line is measured, in turns.
        threads: Of every process.
        results: Receives the figures.
        separately: Whether each measurement has a process of its own.
    """

    setup: Setup
    lines: list[Line]
    rounds: int
    threads: int
    results: Path
    separately: bool

    @property
    def shapes(self) -> list[Shape]:
        """The shapes of the lines, each once."""
        return list(dict.fromkeys(line.shape for line in self.lines))


class Task(NamedTuple):
    """One measurement.

    Attributes:
        setup: What both sides have in common.
        line: What is measured.
    """

    setup: Setup
    line: Line

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"setup": self.setup._asdict(), "line": self.line._asdict() | {"shape": self.line.shape._asdict()}}

    @classmethod
    def read(cls, plain: dict[str, Any]) -> "Task":
        """From what `plain` gave."""
        return cls(Setup(**plain["setup"]), Line(**(plain["line"] | {"shape": Shape(**plain["line"]["shape"])})))


def parse(arguments: Sequence[str] | None) -> Settings:
    """Reads a command line.

    Args:
        arguments: What follows the program's name; by default what the shell was given.
    """
    parser = make_parser(PROGRAM, __doc__, "weights and sampling")
    add = parser.add_argument
    add("--threads", type=int, default=2, help="threads of every process (%(default)s)")
    add("--rounds", type=int, default=2, help="measurements of each line, in turns (%(default)s)")
    add("--steps", type=int, default=4, help="steps of a measurement, the first of which does not count (%(default)s)")
    add("--hidden-size", type=int, default=128, help="width of the model (%(default)s)")
    add("--layers", type=int, default=4, help="depth of the model (%(default)s)")
    given = parser.parse_args(arguments)
    output, results = destinations(given, RESULTS)
    return _smoke(given, output, results) if given.smoke else _full(given, output, results)


def _full(given: argparse.Namespace, output: Path, results: Path) -> Settings:
    setup = Setup(str(output), given.seed, given.hidden_size, given.layers, steps=given.steps)
    shapes = [
        Shape("short", "prompts of 48 tokens", 48),
        Shape("long", "prompts of 256 tokens", 256),
        Shape("kl", "prompts of 256 tokens, with KL", 256, 0.04),
    ]
    lines = [line for shape in shapes for line in _lines(shape, completions=8, tokens=2048)]
    return Settings(setup, lines, given.rounds, given.threads, results, True)


def _smoke(given: argparse.Namespace, output: Path, results: Path) -> Settings:
    setup = Setup(
        str(output), given.seed, 32, 1, 2, 600, 1 / 8, prompts=2, samples=4, max_tokens=12, steps=3, warmup=1, files=10
    )
    lines = _lines(Shape("kl", "prompts of 24 tokens, with KL", 24, 0.04), completions=4, tokens=128)
    return Settings(setup, lines, 1, 1, results, False)


def _lines(shape: Shape, completions: int, tokens: int) -> list[Line]:
    return [
        Line(f"{shape.name}_theirs", "trl", shape, "TRL"),
        Line(f"{shape.name}_theirs_parts", "trl", shape, f"TRL, {completions} completions at once", completions),
        Line(f"{shape.name}_ours", "srch3", shape, "srch3"),
        Line(f"{shape.name}_ours_cached", "srch3", shape, f"srch3, `cache_tokens: {tokens}`", tokens),
    ]
