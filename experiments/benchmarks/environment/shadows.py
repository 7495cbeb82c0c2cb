"""Several ways of keeping up with one training run, none of which it notices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from experiments.benchmarks.environment.lines import CORRECTIONS, INDEXES, POLICIES, Line
from srch3.environments import SearchEnvironment
from srch3.environments.audit import recall, reward_error
from srch3.environments.budget import ShareBudget
from srch3.environments.correction import RidgeCorrection
from srch3.environments.encoding import TEXTS_AT_ONCE
from srch3.environments.state import CorpusState, Encode
from srch3.environments.upkeep import Upkeep
from srch3.indexes import ExactIndex
from srch3.types import CorpusLike, Hits, Observation, Pending, Searcher, Split

Clock = Callable[[], float]


class Memo:
    """Encodes a document once per step, however many ask for it.

    Args:
        encode: Encodes documents with the model of the moment.
        count: Documents in the corpus.
        clock: Tells seconds.

    Attributes:
        documents: How many it encoded.
        seconds: What that took.
    """

    def __init__(self, encode: Encode, count: int, clock: Clock) -> None:
        self._encode, self._count, self.clock = encode, count, clock
        self.documents, self.seconds = 0, 0.0
        self.forget()

    def forget(self) -> None:
        """The model has changed."""
        self.known = torch.zeros(self._count, dtype=torch.bool)
        self._vectors: Tensor | None = None

    def __call__(self, rows: Int64[Tensor, "some"]) -> Float[Tensor, "some dim"]:
        """Vectors of some documents."""
        new = rows[~self.known[rows]]
        if len(new):
            began = self.clock()
            found = self._encode(new)
            self.seconds += self.clock() - began
            self.documents += len(new)
            if self._vectors is None:
                self._vectors = found.new_empty(self._count, found.shape[1])
            self._vectors[new.to(found.device)] = found
            self.known[new] = True
        if self._vectors is None:
            raise ValueError("rows: expected at least one document; got none, and no step asked for any yet")
        return self._vectors[rows.to(self._vectors.device)]

    @property
    def seconds_per_document(self) -> float:
        """Of all encoding passes."""
        return self.seconds / max(1, self.documents)


class Shadow:
    """One way of keeping up, with vectors and ages of its own.

    Args:
        line: Which way.
        corpus: The documents.
        vectors: Of all of them, as the model has them now.
        step: Optimizer steps done.

    Attributes:
        documents: How many it asked to be encoded, in each step after the first, at which all are up to date.
        seconds: What all else took, in each of them.
        audits: What audits found.
    """

    def __init__(self, line: Line, corpus: CorpusLike, vectors: Float[Tensor, "docs dim"], step: int) -> None:
        self.line, self._first = line, step
        self.state = CorpusState(corpus, INDEXES[line.kind]())
        self.state.store(torch.arange(len(corpus)), vectors, step)
        budget, correction = ShareBudget(line.share or 1.0), CORRECTIONS[line.correction]()
        self._upkeep = Upkeep(self.state, POLICIES[line.policy](), budget, correction)
        self.documents: list[int] = []
        self.seconds: list[float] = []
        self.audits: list[dict[str, float]] = []

    def advance(self, pending: Pending, memo: Memo, step: int) -> None:
        """Follows the model."""
        began, encoding = memo.clock(), memo.seconds
        figures = self._upkeep.advance(pending, memo, step)
        if step > self._first:
            self.documents.append(int(figures["refreshed"]))
            self.seconds.append(memo.clock() - began - (memo.seconds - encoding))

    def audit(self, observation: Observation, fresh: Float[Tensor, "docs dim"]) -> None:
        """Takes note of how wrong it is.

        Args:
            observation: What the step searched for.
            fresh: All documents as the present model has them.
        """
        searcher = self.state.searcher
        figures = reward_error(observation, searcher, fresh)
        thought = searcher.vectors_of(torch.arange(len(fresh), device=fresh.device))
        figures["drift"] = float((1 - (thought * fresh).sum(dim=1).double()).mean())
        if not isinstance(self.state.index, ExactIndex):
            hits = searcher.search(observation.embeddings, observation.hits.rows.shape[1])
            figures["recall"] = recall(observation._replace(hits=hits), thought)
            figures |= self.state.index.health()
        self.audits.append(figures)

    def figures(self) -> dict[str, Any]:
        """What came of it."""
        return {"documents": self.documents, "seconds": self.seconds, "audits": self.audits}


def movement(before: Float[Tensor, "some dim"], after: Float[Tensor, "some dim"]) -> dict[str, float]:
    """How far one optimizer step moves documents, and how much of it no linear map explains.

    The map is fitted on every other document, and asked about the rest.

    Args:
        before: Vectors of some documents before the step.
        after: The same documents after it.
    """
    matrix = RidgeCorrection(memory=0.0).fit(before[::2], after[::2])
    assert matrix is not None
    asked, found = before[1::2].double().cpu(), after[1::2].double().cpu()
    mapped = torch.nn.functional.normalize(asked @ matrix, dim=1)
    return {
        "moved": float((1 - (asked * found).sum(dim=1)).mean()),
        "own": float((1 - (mapped * found).sum(dim=1)).mean()),
    }


class Watched:
    """An environment whose searches are shown to somebody else too; it does what the environment does.

    Args:
        environment: Which trains.
        prepare: Is shown what is about to be rewarded.
        observe: Is shown what was.
    """

    def __init__(
        self,
        environment: SearchEnvironment,
        prepare: Callable[[Pending], None],
        observe: Callable[[Observation], None],
    ) -> None:
        self._environment, self._prepare, self._observe = environment, prepare, observe

    def corpus(self, split: Split) -> CorpusLike:
        """The environment's."""
        return self._environment.corpus(split)

    def search(self, queries: Float[Tensor, "queries dim"], k: int, split: Split, width: int | None = None) -> Hits:
        """The environment's."""
        return self._environment.search(queries, k, split, width)

    def searcher(self, split: Split) -> Searcher:
        """The environment's."""
        return self._environment.searcher(split)

    def prepare(self, pending: Pending) -> None:
        """The environment prepares itself, then the other one does."""
        self._environment.prepare(pending)
        self._prepare(pending)

    def observe(self, observation: Observation) -> None:
        """The environment takes note, then the other one does."""
        self._environment.observe(observation)
        self._observe(observation)


class Shadows(L.Callback):
    """Lets every line follow the training run, and audits all of them at the same steps.

    Args:
        lines: What is compared; ``full`` is not among them.
        audited: Optimizer steps done before each audit.
        clock: Tells seconds.

    Attributes:
        shadows: One per line.
        rewards: At each audit, the mean of the exact rewards.
        moves: How far single steps moved the documents, see :func:`movement`.
        full_seconds: What it takes to store all vectors, at each audit.
        step_seconds: What each training step took without shadows and audits.
        memo: What was encoded.
    """

    def __init__(self, lines: list[Line], audited: list[int], clock: Clock) -> None:
        self._lines, self._audited, self._clock = lines, set(audited), clock
        self.shadows: list[Shadow] = []
        self.rewards: list[float] = []
        self.moves: list[dict[str, float]] = []
        self.full_seconds: list[float] = []
        self.step_seconds: list[float] = []
        self._last: Tensor | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Makes the shadows from the environment's first vectors, and shows them what it does from now on."""
        model: Any = pl_module
        environment: SearchEnvironment = model.environment
        state = environment.state("train")
        everything = torch.arange(len(state), device=state.index.vectors.device)
        vectors = state.searcher.vectors_of(everything)
        self.shadows = [Shadow(line, state.corpus, vectors, trainer.global_step) for line in self._lines]
        self._trainer = trainer
        self.memo = Memo(partial(_encode, model, state), len(state), self._clock)
        model.environment = Watched(environment, self._prepare, self._observe)

    def on_train_batch_start(self, *_: Any) -> None:
        """Starts the clock."""
        self._began, self._beside = self._clock(), 0.0

    def on_train_batch_end(self, *_: Any) -> None:
        """Stops the clock."""
        self.step_seconds.append(self._clock() - self._began - self._beside)

    def _prepare(self, pending: Pending) -> None:
        began, step = self._clock(), self._trainer.global_step
        self.memo.forget()
        if step in self._audited:
            self.memo(torch.arange(len(self.memo.known)))
        for shadow in self.shadows:
            shadow.advance(pending, self.memo, step)
        rows = self.memo.known.nonzero()[:, 0]
        if self._last is not None and len(rows) > 1:
            after = self.memo(rows)
            self.moves.append(movement(self._last[rows.to(after.device)], after))
        self._last = None
        self._beside += self._clock() - began

    def _observe(self, observation: Observation) -> None:
        if self._trainer.global_step not in self._audited:
            return
        began = self._clock()
        fresh, exact = self.memo(torch.arange(len(self.memo.known))), ExactIndex()
        exact.build(fresh)
        self.full_seconds.append(self._clock() - began)
        self.rewards.append(float(observation.score(exact).mean()))
        for shadow in self.shadows:
            shadow.audit(observation, fresh)
        self._last = fresh
        self._beside += self._clock() - began


def _encode(model: Any, state: CorpusState, rows: Int64[Tensor, "some"]) -> Float[Tensor, "some dim"]:
    with torch.no_grad():
        return torch.cat([model.encode_documents(state.texts(some)) for some in rows.split(TEXTS_AT_ONCE)])
