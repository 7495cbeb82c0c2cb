"""How far aging vectors, and the rewards that they give, are from those of the present model."""

import time

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from srch3.environments.state import CorpusState, Encode
from srch3.errors import ConfigError
from srch3.functional.distributed import mean_over_ranks
from srch3.indexes.exact import ExactIndex
from srch3.indexes.scan import exact_search
from srch3.types import Observation, Searcher

ARGUMENTS = "environment.init_args"
"""Where the arguments of an environment stand in YAML."""

_BLOCK = 1 << 16


class Auditor:
    """Measures, every so many optimizer steps, what it costs that vectors age.

    Nothing of it is used for training. But where the index has a structure, its searches count among those after which
    the structure is probed.

    Args:
        every: Optimizer steps between audits, each of which encodes the whole corpus; 0 for none.
        drift_every: Optimizer steps between measurements of drift; 0 for none.
        drift_documents: Documents that such a measurement draws and encodes.

    Attributes:
        seconds: What all measurements took since it was set to 0.

    Raises:
        ConfigError: A number is too low.
    """

    def __init__(self, every: int, drift_every: int, drift_documents: int) -> None:
        for name, value, least in (
            ("audit_every_n_steps", every, 0),
            ("drift_every_n_steps", drift_every, 0),
            ("drift_documents", drift_documents, 1),
        ):
            if value < least:
                raise ConfigError(f"{ARGUMENTS}.{name}: expected {least} or more; got {value}")
        self.every, self.drift_every, self.drift_documents = every, drift_every, drift_documents
        self.seconds = 0.0
        self._audited = self._drifted = 0

    def drift(self, state: CorpusState, encode: Encode, step: int) -> dict[str, float]:
        """What :func:`drift_by_age` says about some documents, others in each step, when that is due.

        Args:
            state: The corpus.
            encode: Encodes documents with the present weights.
            step: Optimizer steps done.
        """
        if not _due(step, self.drift_every) or step == self._drifted:
            return {}
        began, self._drifted = time.perf_counter(), step
        alive = state.alive.nonzero()[:, 0]
        order = torch.randperm(len(alive), generator=torch.Generator().manual_seed(step))
        rows = alive[order[: self.drift_documents]]
        found = encode(rows)
        figures = drift_by_age(state.searcher.vectors_of(rows.to(found.device)), found, step - state.stamps[rows])
        self.seconds += time.perf_counter() - began
        return figures

    def rewards(self, observation: Observation, state: CorpusState, encode: Encode, step: int) -> dict[str, float]:
        """What :func:`reward_error` and :func:`recall` say about a step, once in it, when that is due.

        The errors are means over all processes; the other figures are those of the searches of this one.

        Args:
            observation: The step.
            state: The corpus that it searched.
            encode: Encodes documents with the present weights.
            step: Optimizer steps done.
        """
        if not _due(step, self.every) or step == self._audited:
            return {}
        began, self._audited = time.perf_counter(), step
        every = torch.arange(len(state))
        fresh = encode(every)
        removed = (~state.alive).nonzero()[:, 0]
        figures = reward_error(observation, state.searcher, fresh, removed)
        for name in ("reward_bias", "reward_mae"):
            figures[name] = float(mean_over_ranks(torch.tensor(figures[name], device=fresh.device)))
        if not isinstance(state.index, ExactIndex):
            blocks = every.to(fresh.device).split(_BLOCK)
            searched = torch.cat([state.searcher.vectors_of(rows) for rows in blocks])
            figures["audit_recall"] = recall(observation, searched, state.alive)
        seconds = time.perf_counter() - began
        self.seconds += seconds
        return figures | {"audit_documents": float(len(state)), "audit_seconds": seconds}


def reward_error(
    observation: Observation,
    index: Searcher,
    fresh: Float[Tensor, "docs dim"],
    removed: Int64[Tensor, "removed"] | None = None,
) -> dict[str, float]:
    """Compares a step's rewards with what an exact index of the present model's vectors would have given.

    Args:
        observation: The step.
        index: What it searched.
        fresh: All documents, encoded by the model that made the step's searches.
        removed: Rows that hold no document.

    Returns:
        ``reward_bias``, the mean of actual − exact; ``reward_mae``, the mean of their distance; and
        ``advantage_correlation``, Pearson's correlation of the within-group advantages, which is what a policy gradient
        sees. It is left out where either side has no spread.
    """
    up_to_date = ExactIndex()
    up_to_date.build(fresh)
    if removed is not None:
        up_to_date.remove(removed)
    actual = observation.score(index).cpu().double()
    exact = observation.score(up_to_date).cpu().double()
    figures = {
        "reward_bias": float((actual - exact).mean()),
        "reward_mae": float((actual - exact).abs().mean()),
    }
    groups = observation.groups.cpu()
    correlation = _correlation(_centred(actual, groups), _centred(exact, groups))
    return figures if correlation is None else figures | {"advantage_correlation": correlation}


def recall(
    observation: Observation, vectors: Float[Tensor, "docs dim"], alive: Bool[Tensor, "docs"] | None = None
) -> float:
    """Share of the nearest documents that the step's searches found.

    Args:
        observation: The step.
        vectors: All documents as they were searched.
        alive: Which rows hold a document; all by default.
    """
    queries = observation.embeddings.detach().float().to(vectors.device)
    found = observation.hits.rows.to(queries.device)
    alive = None if alive is None else alive.to(queries.device)
    nearest = exact_search(vectors, queries, found.shape[1], alive=alive).rows
    return float((found[:, :, None] == nearest[:, None, :]).any(dim=2).float().mean())


def drift_by_age(
    thought: Float[Tensor, "some dim"], found: Float[Tensor, "some dim"], ages: Int64[Tensor, "some"]
) -> dict[str, float]:
    """How far documents are from where they are thought to be.

    Args:
        thought: Vectors as they are searched, unit length.
        found: The same documents as the present model has them.
        ages: Optimizer steps since they were encoded.

    Returns:
        ``drift``, the mean of 1 − cosine, and ``drift/age_N`` for those of ages from ``N`` up to below ``2 N``, for
        every power of two that there are any of, and ``drift/age_0``.
    """
    distances = 1 - (thought * found).sum(dim=1).double()
    ages = ages.to(distances.device)
    figures = {"drift": float(distances.mean())}
    classes = torch.where(ages > 0, torch.frexp(ages.double()).exponent, 0)
    for number in classes.unique().tolist():
        name = 2 ** (number - 1) if number else 0
        figures[f"drift/age_{name}"] = float(distances[classes == number].mean())
    return figures


def _centred(rewards: Float[Tensor, "rollouts"], groups: Int64[Tensor, "rollouts"]) -> Float[Tensor, "rollouts"]:
    _, members, counts = groups.unique(return_inverse=True, return_counts=True)
    sums = rewards.new_zeros(len(counts)).index_add(0, members, rewards)
    means: Tensor = (sums / counts)[members]
    return rewards - means


def _correlation(left: Float[Tensor, "rollouts"], right: Float[Tensor, "rollouts"]) -> float | None:
    scale = torch.linalg.vector_norm(left) * torch.linalg.vector_norm(right)
    return float((left @ right) / scale) if scale > 0 else None


def _due(step: int, every: int) -> bool:
    return every > 0 and step > 0 and step % every == 0
