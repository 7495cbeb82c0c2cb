from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from srch3.data import Corpus
from srch3.data.changing import ChangingCorpus
from srch3.environments import (
    BaseCorrection,
    BaseRefresh,
    ContestedRefresh,
    DocumentBudget,
    FullRefresh,
    NoCorrection,
    NoRefresh,
    OldestRefresh,
    RandomRefresh,
    RidgeCorrection,
    ShareBudget,
    View,
)
from srch3.environments.refresh.base import oldest_first
from srch3.environments.state import CorpusState
from srch3.environments.touched import Touched, touched
from srch3.environments.upkeep import Upkeep
from srch3.indexes import ExactIndex
from srch3.types import Pending
from tests.environments.toy import ToyCorpus
from tests.indexes.clusters import clustered

COUNT, DIM = 60, 8
PENDING = Pending(clustered(6, DIM, seed=3), torch.tensor([0, 1] * 3), [{4: 1}, {9: 1, 30: 2}], 5)


class Model:
    """Its documents move by the same map in every step; it remembers what it encoded."""

    def __init__(self, size: float = 0.3) -> None:
        noise = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.matrix = torch.eye(DIM, dtype=torch.float64) + size * noise / DIM**0.5
        self.calls: list[list[int]] = []
        self.step = 0

    def documents(self) -> Tensor:
        vectors = clustered(COUNT, DIM).double()
        for _ in range(self.step):
            vectors = normalize(vectors @ self.matrix, dim=1)
        return vectors.float()

    def __call__(self, rows: Tensor) -> Tensor:
        self.calls.append(rows.tolist())
        return self.documents()[rows]


class Chosen(BaseRefresh):
    """Names rows that were given to it, and remembers what it was shown."""

    def __init__(self, *choices: Sequence[int]) -> None:
        super().__init__(sweep=0)
        self.choices, self.views, self.rooms = list(choices), list[View](), list[int]()

    def select(self, view: View, budget: int) -> Tensor:
        self.views.append(view._replace(stamps=view.stamps.clone(), moved=view.moved.clone()))
        self.rooms.append(budget)
        return torch.tensor(self.choices.pop(0), dtype=torch.int64)

    def rank(self, view: View, room: int) -> Tensor:
        return torch.empty(0, dtype=torch.int64)


def upkeep(refresh: BaseRefresh, correction: BaseCorrection, budget: int = 12) -> Upkeep:
    state = CorpusState(ToyCorpus(list(map(str, range(COUNT)))), ExactIndex())
    state.store(torch.arange(COUNT), clustered(COUNT, DIM), 0)
    return Upkeep(state, refresh, DocumentBudget(budget), correction)


def vectors_of(some: Upkeep) -> Tensor:
    return some.state.searcher.vectors_of(torch.arange(COUNT))


def distances(left: Tensor, right: Tensor) -> Tensor:
    return 1 - (left * right).sum(dim=1)


def test_what_is_chosen_is_encoded_stored_and_stamped_and_the_rest_stays_without_a_correction() -> None:
    model, mine = Model(), upkeep(Chosen([3, 7, 50]), NoCorrection())
    model.step = 4
    figures = mine.advance(PENDING, model, 4)
    rows, now, before = torch.tensor([3, 7, 50]), model.documents(), clustered(COUNT, DIM)
    expected = before.index_copy(0, rows, now[rows])
    torch.testing.assert_close(vectors_of(mine), expected)
    assert mine.state.stamps.tolist() == [4 if row in (3, 7, 50) else 0 for row in range(COUNT)]
    assert model.calls == [[3, 7, 50]]
    moved = distances(before, now)
    assert mine.state.moved.isnan().sum() == COUNT - 3
    torch.testing.assert_close(mine.state.moved[rows], moved[rows], atol=1e-6, rtol=0)
    seconds = figures.pop("refresh_seconds")
    assert 0 < seconds < 10
    assert figures == pytest.approx(
        {
            "size": COUNT,
            "age_mean": 4 * (COUNT - 3) / COUNT,
            "age_max": 4,
            "refreshed": 3,
            "refreshed_share": 3 / COUNT,
            "moved": float(moved[rows].mean()),
            "unexplained": float(moved[rows].mean()),
        },
        abs=1e-6,
    )


def test_the_others_are_moved_by_the_map_of_what_was_encoded() -> None:
    rows, model = torch.arange(0, 30), Model()
    mine = upkeep(Chosen(rows.tolist()), RidgeCorrection(prior=2.0))
    model.step = 1
    figures = mine.advance(PENDING, model, 1)
    before, now = clustered(COUNT, DIM), model.documents()
    matrix = RidgeCorrection(prior=2.0).fit(before[rows], now[rows])
    assert matrix is not None
    corrected = normalize(before.double() @ matrix, dim=1).float()
    torch.testing.assert_close(vectors_of(mine), torch.cat([now[:30], corrected[30:]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(mine.state.moved[rows], distances(corrected, now)[rows], atol=1e-6, rtol=0)
    assert figures["moved"] == pytest.approx(float(distances(before, now)[rows].mean()), abs=1e-6)
    assert figures["unexplained"] == pytest.approx(float(distances(corrected, now)[rows].mean()), abs=1e-6)
    assert figures["unexplained"] < 0.2 * figures["moved"]


def test_over_many_steps_a_correction_keeps_the_index_where_the_model_is() -> None:
    drifts = {}
    for correction in (NoCorrection(), RidgeCorrection(prior=1.0)):
        model, mine = Model(size=0.15), upkeep(OldestRefresh(), correction, budget=10)
        for step in range(1, 13):
            model.step = step
            mine.advance(PENDING, model, step)
        drifts[type(correction)] = float(distances(vectors_of(mine), model.documents()).mean())
        assert int((12 - mine.state.stamps).max()) == 5
    assert drifts[RidgeCorrection] < 0.1 * drifts[NoCorrection]


def test_a_policy_sees_what_the_searches_touch_before_anything_is_encoded() -> None:
    policy, model = Chosen([1, 2], [5]), Model()
    mine = upkeep(policy, NoCorrection(), budget=7)
    for step in (1, 2):
        model.step = step
        expected = touched(PENDING, mine.state.searcher)
        mine.advance(PENDING, model, step)
        view = policy.views[-1]
        assert view.step == step
        assert view.searcher is mine.state.searcher
        assert view.alive.all()
        for shown, wanted in zip(view.seen, expected, strict=True):
            assert torch.equal(shown, wanted)
    assert policy.rooms == [7, 7]
    assert policy.views[1].stamps.tolist() == [0, 1, 1] + [0] * (COUNT - 3)
    assert policy.views[1].moved.isnan().tolist() == [True, False, False] + [True] * (COUNT - 3)


def test_the_budget_is_of_the_documents_that_are_there() -> None:
    policy, model = Chosen([]), Model()
    texts = list(map(str, range(COUNT)))
    corpus = ChangingCorpus(Corpus(texts, texts))
    state = CorpusState(corpus, ExactIndex())
    state.store(torch.arange(COUNT), clustered(COUNT, DIM), 0)
    corpus.remove(texts[40:])
    figures = Upkeep(state, policy, ShareBudget(0.5), NoCorrection()).advance(PENDING, model, 3)
    assert policy.rooms == [20]
    assert figures["size"] == 40
    assert policy.views[0].alive.tolist() == [True] * 40 + [False] * 20


def test_removed_documents_stay_away_and_new_ones_exact_while_the_others_are_moved() -> None:
    class Grown(Model):
        def documents(self) -> Tensor:
            return torch.cat([super().documents(), clustered(2, DIM, seed=8)])

    texts = list(map(str, range(COUNT)))
    corpus, model = ChangingCorpus(Corpus(texts, texts)), Grown()
    state = CorpusState(corpus, ExactIndex())
    state.store(torch.arange(COUNT), clustered(COUNT, DIM), 0)
    corpus.remove(["50", "51"])
    corpus.add(["60", "61"], ["60", "61"])
    model.step = 1
    Upkeep(state, Chosen(range(20)), DocumentBudget(20), RidgeCorrection(prior=1.0)).advance(PENDING, model, 1)
    now, every = model.documents(), torch.arange(COUNT + 2)
    found = state.searcher.vectors_of(every)
    torch.testing.assert_close(found[60:], now[60:], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[:20], now[:20], atol=1e-6, rtol=0)
    assert float(distances(found, now)[20:50].mean()) < 0.3 * float(distances(clustered(COUNT, DIM), now[:60]).mean())
    assert not {50, 51} & set(state.searcher.search(clustered(9, DIM, seed=3), 99).rows.flatten().tolist())
    assert state.index.live == 60


def test_policies_that_do_not_look_cost_no_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    search = ExactIndex.search
    monkeypatch.setattr(ExactIndex, "search", lambda *given, **more: searches.append(1) or search(*given, **more))
    for policy, expected in ((NoRefresh(), 0), (OldestRefresh(), 0), (FullRefresh(), 0), (ContestedRefresh(), 1)):
        searches.clear()
        upkeep(policy, NoCorrection()).advance(PENDING, Model(), 1)
        assert len(searches) == expected


def test_where_nothing_is_encoded_nothing_changes() -> None:
    model, mine = Model(), upkeep(NoRefresh(), RidgeCorrection())
    model.step, revision = 5, mine.state.revision
    figures = mine.advance(PENDING, model, 5)
    assert torch.equal(vectors_of(mine), clustered(COUNT, DIM))
    assert mine.state.revision == revision
    assert (figures["refreshed"], figures["age_mean"], model.calls) == (0, 5, [])
    assert not {"moved", "unexplained"} & set(figures)


def test_a_full_refresh_is_exact_and_asks_no_correction() -> None:
    class Never(BaseCorrection):
        def fit(self, thought: Tensor, found: Tensor) -> Tensor:
            raise AssertionError

    model, mine = Model(), upkeep(FullRefresh(), Never())
    model.step = 2
    figures = mine.advance(PENDING, model, 2)
    assert torch.equal(vectors_of(mine), model.documents())
    assert figures["unexplained"] == figures["moved"] > 0.01
    assert figures["age_max"] == 0


def test_within_a_step_the_others_are_moved_once() -> None:
    model, mine = Model(), upkeep(Chosen(range(20), range(20, 40), range(10)), RidgeCorrection(prior=2.0))
    model.step = 1
    mine.advance(PENDING, model, 1)
    once = vectors_of(mine)
    mine.advance(PENDING, model, 1)
    now = model.documents()
    torch.testing.assert_close(vectors_of(mine), torch.cat([now[:40], once[40:]]), atol=1e-6, rtol=0)
    model.step = 2
    mine.advance(PENDING, model, 2)
    assert float(distances(vectors_of(mine), once)[40:].min()) > 1e-3
    assert [len(rows) for rows in model.calls] == [20, 20, 10]


def test_with_nothing_to_search_the_oldest_are_encoded() -> None:
    nothing = Pending(torch.empty(0, DIM), torch.empty(0, dtype=torch.int64), [], 5)
    model, mine = Model(), upkeep(ContestedRefresh(), RidgeCorrection(), budget=5)
    model.step = 1
    mine.advance(nothing, model, 1)
    rows = torch.arange(len(mine.state))
    assert model.calls == [sorted(oldest_first(torch.zeros_like(rows), rows).argsort()[:5].tolist())]


def test_positives_and_their_rivals_are_searched_where_the_model_has_them() -> None:
    model, mine = Model(), upkeep(ContestedRefresh(sweep=0.0), RidgeCorrection())
    model.step = 1
    before: Touched = touched(PENDING, mine.state.searcher)
    mine.advance(PENDING, model, 1)
    (rows,) = model.calls
    assert {4, 9, 30} < set(rows) < {4, 9, 30} | set(before.hits.tolist())
    assert len(rows) == 12
    torch.testing.assert_close(vectors_of(mine)[rows], model.documents()[rows])


@pytest.mark.parametrize(("sweep", "grows"), [(0.0, False), (0.25, False), (0.5, False), (1.0, True)])
def test_a_correction_goes_astray_where_it_learns_from_the_oldest_alone(sweep: float, grows: bool) -> None:
    count, dim = 400, 16
    draw = torch.Generator().manual_seed(0)
    now, drift, errors = clustered(count, dim), torch.randn(dim, dim, generator=draw), []
    state = CorpusState(ToyCorpus(list(map(str, range(count)))), ExactIndex())
    state.store(torch.arange(count), now, 0)
    kept = Upkeep(state, RandomRefresh(sweep=sweep), DocumentBudget(count // 20), RidgeCorrection())
    for step in range(1, 201):
        drift = 0.95 * drift + 0.31 * torch.randn(dim, dim, generator=draw)
        noise = 0.002 * torch.randn(count, dim, generator=draw) / dim**0.5
        now = normalize(now @ (torch.eye(dim) + 0.004 * drift / dim**0.5) + noise, dim=1)
        kept.advance(PENDING, lambda rows, now=now: now[rows], step)
        errors.append(float(distances(state.searcher.vectors_of(torch.arange(count)), now).mean()))
    early, late = sum(errors[50:100]), sum(errors[150:])
    assert (late > 3 * early) == grows
