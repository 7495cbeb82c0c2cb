"""What can be chosen about the comparison, and what a measured process is told."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.benchmarks.program import destinations, make_parser

RESULTS = Path(__file__).parent / "results.json"
PROGRAM = "experiments.benchmarks.sft.run"

Side = Literal["srch3", "sentence-transformers"]


class Setup(NamedTuple):
    """What both sides have in common.

    Attributes:
        folder: Holds what was prepared: the model, the texts and their orders.
        seed: Of the initial weights, the order of training and the choice of texts.
        hidden_size: Width of the model.
        layers: Its depth.
        heads: Its attention heads.
        vocab_size: Of its tokenizer.
        max_query_tokens: A query is cut off after so many.
        max_document_tokens: The same for a document.
        temperature: Of InfoNCE; the other side's ``scale`` is its inverse.
        lr: Of AdamW at the first step; it falls in a line to zero.
        max_grad_norm: Longer gradients are clipped to it.
        small: Whether the texts are two packages of the standard library alone.
    """

    folder: str
    seed: int = 0
    hidden_size: int = 128
    layers: int = 2
    heads: int = 4
    vocab_size: int = 4096
    max_query_tokens: int = 64
    max_document_tokens: int = 256
    temperature: float = 0.05
    lr: float = 1e-3
    max_grad_norm: float = 1.0
    small: bool = False


class Order(NamedTuple):
    """Which pairs stand together in which step, on both sides, and how that is timed.

    Attributes:
        name: Of its file.
        title: What it is called in the table.
        batch_size: Pairs per step.
        steps: How many.
        warmup: Of these, so many do not count.
        block: The others are timed in blocks of so many.
        rounds: How often each side is measured, in turns.
        bucket_batches: Pairs are sorted by length within so many batches; 1 leaves them in random order.
    """

    name: str
    title: str
    batch_size: int
    steps: int
    warmup: int
    block: int
    rounds: int = 1
    bucket_batches: int = 1


class Line(NamedTuple):
    """One line of the comparison.

    Attributes:
        name: Its key in the results.
        side: Who trains.
        order: What is trained on.
        label: What it is called in the table.
        cache: With cached gradients, what one forward pass that keeps its activations may hold: of ours so many tokens,
            of theirs so many pairs. None keeps all activations.
    """

    name: str
    side: Side
    order: Order
    label: str
    cache: int | None = None


class Settings(NamedTuple):
    """One run of the comparison.

    Attributes:
        setup: What both sides have in common.
        lines: What is measured; of each order first theirs, then ours.
        threads: Of every process.
        results: Receives the figures.
        separately: Whether each measurement has a process of its own.
    """

    setup: Setup
    lines: list[Line]
    threads: int
    results: Path
    separately: bool

    @property
    def orders(self) -> list[Order]:
        """The orders of the lines, each once."""
        return list(dict.fromkeys(line.order for line in self.lines))


class Task(NamedTuple):
    """One measurement.

    Attributes:
        setup: What both sides have in common.
        line: What is measured.
        evaluate: Whether to search the held-out queries afterwards.
    """

    setup: Setup
    line: Line
    evaluate: bool

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        line = self.line._asdict() | {"order": self.line.order._asdict()}
        return {"setup": self.setup._asdict(), "line": line, "evaluate": self.evaluate}

    @classmethod
    def read(cls, plain: dict[str, Any]) -> "Task":
        """From what `plain` gave."""
        line = Line(**(plain["line"] | {"order": Order(**plain["line"]["order"])}))
        return cls(Setup(**plain["setup"]), line, plain["evaluate"])


def parse(arguments: Sequence[str] | None) -> Settings:
    """Reads a command line.

    Args:
        arguments: What follows the program's name; by default what the shell was given.
    """
    parser = make_parser(PROGRAM, __doc__, "weights, order and choice of texts")
    add = parser.add_argument
    add("--threads", type=int, default=2, help="threads of every process (%(default)s)")
    add("--rounds", type=int, default=1, help="measurements of each side with 64 pairs per step (%(default)s)")
    add("--steps", type=int, default=100, help="steps of 64 pairs in random order (%(default)s)")
    add("--bucketed-steps", type=int, default=40, help="steps of 64 pairs of like length (%(default)s)")
    add("--cached-steps", type=int, default=2, help="steps of 4,096 pairs (%(default)s)")
    add("--cache-tokens", type=int, default=2048, help="tokens per cached forward pass of ours (%(default)s)")
    add("--cache-pairs", type=int, default=16, help="pairs per cached forward pass of theirs (%(default)s)")
    add("--hidden-size", type=int, default=128, help="width of the model (%(default)s)")
    add("--layers", type=int, default=2, help="depth of the model (%(default)s)")
    given = parser.parse_args(arguments)
    output, results = destinations(given, RESULTS)
    return _smoke(given, output, results) if given.smoke else _full(given, output, results)


def _full(given: argparse.Namespace, output: Path, results: Path) -> Settings:
    setup = Setup(str(output), given.seed, given.hidden_size, given.layers)
    lines = _lines(
        Order("random", "64 pairs, in random order", 64, given.steps, 5, 5, given.rounds),
        Order("bucketed", "64 pairs of like length", 64, given.bucketed_steps, 5, 5, given.rounds, bucket_batches=20),
        Order("cached", "4,096 pairs, gradients cached", 4096, given.cached_steps, 0, 1),
        given.cache_tokens,
        given.cache_pairs,
    )
    return Settings(setup, lines, given.threads, results, True)


def _smoke(given: argparse.Namespace, output: Path, results: Path) -> Settings:
    setup = Setup(str(output), given.seed, 32, 1, 2, 600, max_query_tokens=48, max_document_tokens=192, small=True)
    lines = _lines(
        Order("random", "24 pairs, in random order", 24, 5, 1, 2),
        Order("bucketed", "24 pairs of like length", 24, 5, 1, 2, bucket_batches=3),
        Order("cached", "64 pairs, gradients cached", 64, 2, 0, 1),
        tokens=2048,
        pairs=8,
    )
    return Settings(setup, lines, 1, results, False)


def _lines(random: Order, bucketed: Order, cached: Order, tokens: int, pairs: int) -> list[Line]:
    them: Side = "sentence-transformers"
    return [
        Line("theirs", them, random, them),
        Line("ours", "srch3", random, "srch3"),
        Line("theirs_bucketed", them, bucketed, f"{them}, given our order"),
        Line("ours_bucketed", "srch3", bucketed, f"srch3, `bucket_batches: {bucketed.bucket_batches}`"),
        Line("theirs_cached", them, cached, f"{them}, `mini_batch_size={pairs}`", pairs),
        Line("ours_cached", "srch3", cached, f"srch3, `cache_tokens: {tokens}`", tokens),
    ]
