"""The second part: what a step costs in a corpus of a million documents, encoding apart."""

import gc
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from rich.progress import track
from torch import Tensor

from experiments.benchmarks.environment.drifting import Drifting
from experiments.benchmarks.environment.lines import INDEXES
from experiments.benchmarks.environment.settings import Simulation
from srch3.environments.budget import DocumentBudget
from srch3.environments.correction import RidgeCorrection
from srch3.environments.refresh import ContestedRefresh
from srch3.environments.state import CorpusState
from srch3.environments.upkeep import Upkeep
from srch3.indexes.scan import exact_search
from srch3.types import Pending

HITS = 100
SPREAD = 0.7
QUERIES = 64
SAMPLE = 1024
_PAGES = Path("/proc/self/statm")


class Stopwatch:
    """Seconds of CPU time by name; what is timed within something else is not counted there."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Times what happens in it."""
        began = time.process_time()
        self._inner.append(0.0)
        try:
            yield
        finally:
            spent = time.process_time() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + spent - self._inner.pop()
            self._inner[-1] += spent

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is timed whenever it is called."""

        def call(*arguments: Any) -> Any:
            with self.time(name):
                return function(*arguments)

        return call


@contextmanager
def watched(parts: Iterable[tuple[object, str, Callable[..., Any]]]) -> Iterator[None]:
    """Puts functions in the places of some objects' methods for a while."""
    parts = list(parts)
    for owner, method, function in parts:
        setattr(owner, method, function)
    try:
        yield
    finally:
        for owner, method, _ in parts:
            delattr(owner, method)


class Numbered:
    """Documents without texts."""

    def __init__(self, count: int) -> None:
        self.ids: list[str] = []
        self.texts: list[str] = []
        self._count = count

    def __len__(self) -> int:
        return self._count

    def row(self, document_id: str) -> int:
        """The id as a number."""
        return int(document_id)


class Kept:
    """The default environment's upkeep of a simulated corpus, on a stopwatch.

    Args:
        documents: The corpus.
        simulation: What to do.
    """

    def __init__(self, documents: Drifting, simulation: Simulation) -> None:
        self._documents, self._simulation = documents, simulation
        self.state = CorpusState(Numbered(len(documents)), INDEXES[simulation.kind]())
        every = torch.arange(len(documents))
        vectors = torch.cat([documents.vectors(rows) for rows in every.split(1 << 16)])
        began = time.process_time()
        self.state.store(every, vectors, 0)
        self.build_seconds = time.process_time() - began
        self._refresh = ContestedRefresh()
        self._upkeep = Upkeep(self.state, self._refresh, DocumentBudget(simulation.renewed), RidgeCorrection())
        self._generator = torch.Generator().manual_seed(simulation.seed + 2)

    def step(self, number: int) -> dict[str, float]:
        """Moves the documents, keeps up, and searches.

        Args:
            number: Of the step, from 1.

        Returns:
            CPU seconds of each part, encoding apart; ``recall`` of the searches, and the ``drift`` of some documents.
        """
        self._documents.step()
        pending, watch = self._pending(), Stopwatch()
        with watched(self._parts(watch)), watch.time("rest"):
            self._upkeep.advance(pending, lambda rows: self._encode(rows, watch), number)
            hits = self.state.searcher.search(pending.embeddings, pending.hits)
        del watch.seconds["encoding"]
        some = torch.linspace(0, len(self._documents) - 1, SAMPLE).long()
        distances = 1 - (self.state.searcher.vectors_of(some) * self._documents.vectors(some)).sum(dim=1)
        recall = self._recall(pending.embeddings[:QUERIES], hits.rows[:QUERIES])
        return watch.seconds | {"recall": recall, "drift": float(distances.mean()), **self.state.index.health()}

    def _parts(self, watch: Stopwatch) -> list[tuple[object, str, Callable[..., Any]]]:
        state = self.state
        named = ((state.searcher, "search"), (self._refresh, "select"), (state, "correct"), (state, "store"))
        return [(owner, method, watch.timed(method, getattr(owner, method))) for owner, method in named]

    def _encode(self, rows: Int64[Tensor, "some"], watch: Stopwatch) -> Float[Tensor, "some dim"]:
        with watch.time("encoding"):
            return self._documents.vectors(rows)

    def _pending(self) -> Pending:
        queries, samples = self._simulation.batch, self._simulation.samples
        positives = torch.randperm(len(self._documents), generator=self._generator)[:queries]
        embeddings = self._documents.searches(positives.repeat_interleave(samples), SPREAD)
        groups = torch.arange(queries).repeat_interleave(samples)
        return Pending(embeddings, groups, [{row: 1} for row in positives.tolist()], HITS)

    def _recall(self, queries: Float[Tensor, "queries dim"], found: Int64[Tensor, "queries hits"]) -> float:
        vectors = self.state.searcher.vectors_of(torch.arange(len(self._documents)))
        nearest = exact_search(vectors, queries, found.shape[1]).rows
        return float((found[:, :, None] == nearest[:, None, :]).any(dim=2).float().mean())


def simulate(simulation: Simulation, moves: Mapping[str, float]) -> dict[str, Any]:
    """Steps of the default environment in a simulated corpus, without a model.

    Args:
        simulation: What to do.
        moves: How far a step moves documents, see ``shadows.movement``.
    """
    common, own = max(0.0, moves["moved"] - moves["own"]), moves["own"]
    documents = Drifting(simulation.documents, simulation.width, common, own, simulation.seed)
    gc.collect()
    before = held()
    kept = Kept(documents, simulation)
    gc.collect()
    memory = held() - before
    steps = [kept.step(number) for number in track(range(1, simulation.steps + 1), simulation.name, transient=True)]
    return {"build_seconds": kept.build_seconds, "bytes": memory, "moves": dict(moves), "steps": steps}


def held() -> int:
    """Memory that this process holds, in bytes; 0 where the system does not say."""
    return int(_PAGES.read_text().split()[1]) * resource.getpagesize() if _PAGES.is_file() else 0
