from functools import partial
from math import cos, log2, pi, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from srch3.environments import (
    BaseRefresh,
    ContestedRefresh,
    DocumentBudget,
    FullRefresh,
    NeighbourhoodRefresh,
    NoCorrection,
    NoRefresh,
    SearchEnvironment,
    View,
)
from srch3.environments.audit import Auditor, drift_by_age, recall, reward_error
from srch3.environments.state import CorpusState
from srch3.indexes import ExactIndex, HnswIndex
from srch3.types import Hits, Observation, Pending
from tests.environments.toy import Recorder, ToyCorpus, ToyData, ToyModule, reward, toy_corpus, trainer
from tests.indexes.clusters import clustered

pytestmark = pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")


def slow_reward(query: Tensor, vectors: Tensor, positive: int, k: int) -> float:
    scores = [float(query.double() @ vector.double()) for vector in vectors]
    rank = sum(score > scores[positive] for score in scores) + 1
    return scores[positive] / log2(rank + 1) if rank <= k else 0.0


def slow_figures(actual: list[float], exact: list[float], groups: list[int]) -> dict[str, float]:
    def advantages(rewards: list[float]) -> list[float]:
        means = {}
        for group in set(groups):
            members = [r for r, g in zip(rewards, groups, strict=True) if g == group]
            means[group] = sum(members) / len(members)
        return [r - means[g] for r, g in zip(rewards, groups, strict=True)]

    left, right = advantages(actual), advantages(exact)
    dot = sum(a * b for a, b in zip(left, right, strict=True))
    norms = sqrt(sum(a * a for a in left)) * sqrt(sum(b * b for b in right))
    errors = [a - e for a, e in zip(actual, exact, strict=True)]
    return {
        "reward_bias": sum(errors) / len(errors),
        "reward_mae": sum(map(abs, errors)) / len(errors),
        "advantage_correlation": dot / norms,
    }


def test_figures_agree_with_a_slow_reference() -> None:
    old, queries = clustered(60), clustered(12, seed=1)
    fresh = torch.nn.functional.normalize(old + 0.3 * clustered(60, seed=2), dim=1)
    index = ExactIndex()
    index.build(old)
    positives = index.search(queries, 3).rows[:, 1]
    groups = [0, 0, 0, 4, 4, 4, 2, 2, 2, 4, 0, 2]
    score = partial(reward, positives, queries, 8)
    observation = Observation(queries, index.search(queries, 8), torch.tensor(groups), score)
    actual, exact = (
        [slow_reward(q, vectors, p, 8) for q, p in zip(queries, positives.tolist(), strict=True)]
        for vectors in (old, fresh)
    )
    assert reward_error(observation, index, fresh) == pytest.approx(slow_figures(actual, exact, groups), abs=1e-6)


def test_without_spread_there_is_no_correlation() -> None:
    index = ExactIndex()
    index.build(clustered(10))
    queries = clustered(4, seed=1)
    score = partial(reward, torch.zeros(4), queries, 3)
    observation = Observation(queries, index.search(queries, 3), torch.arange(4), score)
    assert set(reward_error(observation, index, clustered(10))) == {"reward_bias", "reward_mae"}


def test_recall_counts_nearest_documents_that_were_missed() -> None:
    queries = torch.tensor([[0.8, 0.6, 0.0, 0.0], [0.0, 0.0, 0.6, 0.8]])
    hits = Hits(torch.tensor([[0, 1], [3, 0]]), torch.zeros(2, 2))
    observation = Observation(queries, hits, torch.arange(2), lambda _: hits.scores)
    assert recall(observation, torch.eye(4)) == 0.75


def test_drift_is_told_apart_by_age() -> None:
    ages = torch.tensor([0, 1, 2, 3, 4, 7, 8, 0])
    turned = torch.tensor([0.0, 0.1, 0.2, 0.4, 0.3, 0.5, 0.6, 0.2])
    thought = torch.tensor([[1.0, 0.0]]).expand(8, 2)
    found = torch.stack([1 - turned, (1 - (1 - turned) ** 2).sqrt()], dim=1)
    expected = {"drift": 2.3 / 8, "drift/age_0": 0.1, "drift/age_1": 0.1, "drift/age_2": 0.3}
    expected |= {"drift/age_4": 0.4, "drift/age_8": 0.6}
    assert drift_by_age(thought, found, ages) == pytest.approx(expected, abs=1e-6)
    assert set(drift_by_age(thought[1:2], found[1:2], ages[1:2])) == {"drift", "drift/age_1"}


def state_of(count: int) -> CorpusState:
    state = CorpusState(toy_corpus(count), ExactIndex())
    state.store(torch.arange(count), clustered(count), 0)
    return state


def test_drift_is_of_a_sample_that_each_step_draws_anew() -> None:
    calls, seen = list[list[int]](), list[list[int]]()
    auditor, state = Auditor(0, 2, 10), state_of(50)
    for step in (0, 1, 2, 2, 3, 4):
        figures = auditor.drift(state, lambda rows: calls.append(rows.tolist()) or clustered(50, seed=1)[rows], step)
        assert bool(figures) == (len(calls) > len(seen))
        seen = calls[:]
    assert [len(set(rows)) for rows in calls] == [10, 10]
    assert calls[0] != calls[1]
    again = list[list[int]]()
    whole = Auditor(0, 2, 10)
    figures = whole.drift(state, lambda rows: again.append(rows.tolist()) or clustered(50, seed=1)[rows], 4)
    assert again == calls[1:]
    rows = torch.tensor(again[0])
    expected = 1 - (clustered(50)[rows] * clustered(50, seed=1)[rows]).sum(dim=1).mean()
    assert figures == pytest.approx({"drift": float(expected), "drift/age_4": float(expected)}, abs=1e-6)
    everything = Auditor(0, 1, 99).drift(state, lambda rows: clustered(50)[rows], 1)
    assert everything == pytest.approx({"drift": 0, "drift/age_1": 0}, abs=1e-6)
    assert whole.seconds > 0


class Searched(Recorder):
    """All documents as the first searches of each step found them, and as the model encodes them."""

    def __init__(self, environment: SearchEnvironment) -> None:
        super().__init__(environment)
        self.stale: dict[int, Tensor] = {}
        self.fresh: dict[int, Tensor] = {}

    def on_before_backward(self, trainer: Any, pl_module: ToyModule, *_: Any) -> None:
        state = self.environment.state("train")
        self.stale.setdefault(trainer.global_step, state.searcher.vectors_of(torch.arange(len(state))))
        with torch.no_grad():
            self.fresh[trainer.global_step] = pl_module.embed(state.corpus.texts)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_audits_measure_the_rewards_that_the_step_trained_on(accumulated: int) -> None:
    environment = SearchEnvironment(budget=DocumentBudget(5), audit_every_n_steps=2)
    recorder, model = Searched(environment), ToyModule(lr=0.1)
    data = ToyData(toy_corpus(60), steps=6 * accumulated)
    trainer(environment, recorder, limit_val_batches=0, accumulate_grad_batches=accumulated).fit(model, datamodule=data)
    for step in (2, 4):
        observation = model.observations[step * accumulated]
        positives = observation.score.args[0].tolist()
        pairs = list(zip(observation.embeddings, positives, strict=True))
        exact = [slow_reward(query, recorder.fresh[step], row, 8) for query, row in pairs]
        actual = [slow_reward(query, recorder.stale[step], row, 8) for query, row in pairs]
        expected = slow_figures(actual, exact, observation.groups.tolist())
        logged = recorder.metrics[step + 1]
        assert {name: logged[f"env/{name}"] for name in expected} == pytest.approx(expected, abs=1e-5)
        assert abs(expected["reward_bias"]) > 1e-4
        assert logged["env/audit_documents"] == 60
        assert logged["env/refreshed_share"] == pytest.approx(5 / 60)
        assert "env/audit_recall" not in logged
    assert "env/reward_bias" not in recorder.metrics[1]


def test_audits_change_nothing_in_training() -> None:
    weights, vectors = [], []
    for every in (0, 1):
        environment = SearchEnvironment(audit_every_n_steps=every, drift_every_n_steps=every)
        recorder, model = Recorder(environment), ToyModule()
        trainer(environment, recorder, limit_val_batches=0).fit(model, datamodule=ToyData(toy_corpus(40)))
        weights.append(model.words.detach())
        vectors.append(recorder.vectors[6])
    assert torch.equal(*weights)
    assert torch.equal(*vectors)


def test_an_approximate_index_reports_its_recall() -> None:
    environment = SearchEnvironment(HnswIndex(), audit_every_n_steps=1)
    run = trainer(environment, limit_val_batches=0)
    run.fit(ToyModule(), datamodule=ToyData(toy_corpus(80)))
    assert run.callback_metrics["env/audit_recall"] >= 0.98


class Turning(ToyModule):
    """Turns everything, queries and documents, by 8 degrees per step, so that the exact reward never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.angle = torch.nn.Parameter(torch.zeros(()))

    def embed(self, texts: Any) -> Tensor:
        angles = torch.tensor([float(text) for text in texts]) * pi / 180 + self.angle
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        assert self.environment is not None
        query, only = self.embed(["0"]).detach(), torch.tensor([0])
        self.environment.prepare(Pending(query, only, [{0: 1}], 4))
        hits = self.environment.search(query, 4, "train")
        self.environment.observe(Observation(query, hits, only, partial(reward, only, query, 4)))
        return -self.angle

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.angle], lr=8 * pi / 180)


class PositivesOnly(BaseRefresh):
    def quota(self, budget: int, waiting: int) -> int:
        return 1

    def rank(self, view: View, room: int) -> Tensor:
        return view.seen.positives


def degrees(angle: float) -> float:
    return cos(angle * pi / 180)


@pytest.mark.parametrize(
    ("policy", "actual"),
    [
        (PositivesOnly(sweep=0), degrees(10)),
        (NoRefresh(), degrees(16 - 10)),
        (FullRefresh(), degrees(10) / log2(3)),
        (NeighbourhoodRefresh(competitors=1, sweep=0), degrees(10) / log2(3)),
        (ContestedRefresh(sweep=0), degrees(10) / log2(3)),
    ],
)
def test_only_positives_with_their_competitors_keep_the_reward_unbiased(policy: BaseRefresh, actual: float) -> None:
    environment = SearchEnvironment(None, policy, DocumentBudget(2), NoCorrection(), audit_every_n_steps=2)
    run = trainer(environment, limit_val_batches=0)
    corpus = ToyCorpus(["10", "4", "90", "200"])
    run.fit(Turning(), datamodule=ToyData(corpus, steps=3))
    exact = degrees(10) / log2(3)
    assert float(run.callback_metrics["env/reward_bias"]) == pytest.approx(actual - exact, abs=1e-6)
    assert float(run.callback_metrics["env/reward_mae"]) == pytest.approx(abs(actual - exact), abs=1e-6)


def test_removed_documents_are_no_part_of_what_is_exact() -> None:
    vectors, queries = clustered(20), clustered(6, seed=1)
    index, gone = ExactIndex(), torch.tensor([3, 8])
    index.build(vectors)
    index.remove(gone)
    hits = index.search(queries, 5)
    observation = Observation(queries, hits, torch.arange(6) // 3, partial(reward, hits.rows[:, 0], queries, 5))
    nearer = vectors.clone()
    nearer[gone] = queries[:2]
    figures = reward_error(observation, index, nearer, gone)
    assert figures["reward_mae"] == pytest.approx(0, abs=1e-7)
    alive = torch.ones(20, dtype=torch.bool).index_fill(0, gone, False)
    assert recall(observation, nearer, alive) == 1
    assert recall(observation, nearer) < 1
