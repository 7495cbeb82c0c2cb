"""What can be chosen about the comparison."""

import argparse
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks.environment.lines import Line, every_line
from experiments.benchmarks.program import destinations, make_parser

RESULTS = Path(__file__).parent / "results.json"
PROGRAM = "experiments.benchmarks.environment.run"


class Training(NamedTuple):
    """One training run, which all lines watch.

    Attributes:
        documents: Of the corpus at most.
        rate: Learning rate, constant.
        embedding_scale: Factor of the learning rate of the token embeddings.
        steps: Optimizer steps.
        audits: At how many of them the whole corpus is encoded.
        batch: Queries per step.
        samples: Completions of each.
        seed: Of everything random.
        lines: What is compared.
    """

    documents: int
    rate: float
    embedding_scale: float
    steps: int
    audits: int
    batch: int
    samples: int
    seed: int
    lines: tuple[Line, ...]

    @property
    def name(self) -> str:
        """What it is called, also as a file."""
        scale = f" x{self.embedding_scale:g}" if self.embedding_scale != 1 else ""
        return f"{self.documents} documents, lr {self.rate:g}{scale}"

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return self._asdict() | {"lines": [line.name for line in self.lines]}

    @property
    def audited(self) -> list[int]:
        """Steps done before each audit, spread evenly up to the last step."""
        return sorted({round((self.steps - 1) * number / self.audits) for number in range(1, self.audits + 1)})


class Simulation(NamedTuple):
    """One simulated corpus.

    Attributes:
        documents: How many.
        width: Of a vector.
        kind: Of index that is searched: exact, hnsw or faiss.
        batch: Queries per step.
        samples: Searches for each.
        renewed: Documents encoded again per step.
        steps: How many.
        seed: Of everything random.
    """

    documents: int
    width: int
    kind: str
    batch: int
    samples: int
    renewed: int
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """What it is called, also as a file."""
        return f"{self.documents} simulated, {self.kind}, {self.batch} x {self.samples}"

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return self._asdict()


class Settings(NamedTuple):
    """One run of the comparison.

    Attributes:
        model: Folder of the base model.
        init_from: Checkpoint of stage 1; none for the base as it is.
        trainings: Runs of the first part.
        simulations: Runs of the second part.
        device: Where models and indexes of the first part are.
        threads: Of the process.
        output: Folder that keeps what is finished.
        results: Receives the figures.
        smoke: Whether this is the minute's version.
    """

    model: Path
    init_from: str | None
    trainings: list[Training]
    simulations: list[Simulation]
    device: str
    threads: int
    output: Path
    results: Path
    smoke: bool


def parse(arguments: Sequence[str] | None) -> Settings:
    """Reads a command line.

    Args:
        arguments: What follows the program's name; by default what the shell was given.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    output, results = destinations(given, RESULTS)
    if given.smoke:
        return Settings(
            output / "base",
            str(output / "sft" / "last.ckpt"),
            *_smoke(given.seed),
            given.device,
            given.threads,
            output,
            results,
            True,
        )
    if not given.million and given.model is None:
        parser.error("--model: expected the base model's folder, such as runs/quickstart/base; got none")
    trainings = [] if given.million else _trainings(given, parser)
    simulations = _simulations(given) if given.million else []
    model, init_from = given.model or Path(), given.init_from
    return Settings(model, init_from, trainings, simulations, given.device, given.threads, output, results, False)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(PROGRAM, __doc__, "everything random")
    add = parser.add_argument
    add("--model", type=Path, help="folder of the base model, as stage 0 of the quickstart leaves it")
    add("--init-from", help="checkpoint of stage 1 (default: the base model as it is)")
    add("--sizes", type=int, nargs="+", default=[5000, 20000, 45000], help="documents of the corpora (%(default)s)")
    add("--rates", type=float, nargs="+", default=[1e-4, 5e-4], help="learning rates (%(default)s)")
    add("--embedding-scales", type=float, nargs="+", default=[1.0], help="factors of the token embeddings' rate")
    add("--steps", type=int, default=300, help="optimizer steps (%(default)s)")
    add("--audits", type=int, default=15, help="steps at which the whole corpus is encoded (%(default)s)")
    add("--batch", type=int, default=96, help="queries per step, with four completions each (%(default)s)")
    add("--lines", nargs="+", default=["*"], help="only those that match a pattern, such as 'contested 5%%*'")
    add("--million", action="store_true", help="the second part, simulated corpora, instead of the first")
    add("--documents", type=int, nargs="+", default=[100_000, 1_000_000], help="of simulated corpora (%(default)s)")
    add("--simulated-steps", type=int, default=24, help="steps with each simulated corpus (%(default)s)")
    add("--graph-documents", type=int, default=100_000, help="largest corpus a graph is built over (%(default)s)")
    add("--device", default="cpu", help="where models are: cpu, or cuda (%(default)s)")
    add("--threads", type=int, default=1, help="threads of the process (%(default)s)")
    return parser


def _trainings(given: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Training]:
    trainings = []
    for documents in sorted(given.sizes):
        smallest = documents == min(given.sizes)
        lines = [line for line in every_line(smallest) if any(fnmatch(line.name, some) for some in given.lines)]
        if not lines:
            parser.error(f"--lines: expected patterns of {[line.name for line in every_line(smallest)]}")
        for rate in given.rates:
            for scale in given.embedding_scales:
                counts = (given.steps, given.audits, given.batch, 4, given.seed)
                trainings.append(Training(documents, rate, scale, *counts, tuple(lines)))
    return trainings


def _simulations(given: argparse.Namespace) -> list[Simulation]:
    simulations = []
    for documents in sorted(given.documents):
        kinds = ["exact", "faiss", *(["hnsw"] if documents <= given.graph_documents else [])]
        for kind in kinds:
            for batch in (24, 96):
                shape = (documents, 128, kind, batch, 4, 20 * batch)
                simulations.append(Simulation(*shape, given.simulated_steps, given.seed))
    return simulations


def _smoke(seed: int) -> tuple[list[Training], list[Simulation]]:
    training = Training(60, 1e-3, 1.0, 6, 3, 8, 2, seed, tuple(every_line(smallest=False)))
    kinds = ("exact", "faiss", "hnsw")
    return [training], [Simulation(1500, 16, kind, 4, 2, 40, 3, seed) for kind in kinds]
