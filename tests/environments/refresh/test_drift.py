import math
from typing import Any

import pytest
import torch
from torch import Tensor

from srch3.environments import DriftRefresh
from srch3.errors import ConfigError
from tests.environments.refresh.views import random_view, view
from tests.indexes.clusters import brute_force


def moved(count: int, **known: float) -> Tensor:
    values = torch.full((count,), torch.nan)
    for name, distance in known.items():
        values[int(name[1:])] = distance
    return values


def circle(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees) * math.pi / 180
    return torch.stack([angles.cos(), angles.sin()], dim=1)


TWO_CLUSTERS = circle(0, 1, 2.5, 180, 181, 182.5)


def test_neighbours_of_what_moved_most_come_first() -> None:
    shown = view([9, 2, 2, 9, 2, 2], vectors=TWO_CLUSTERS, moved=moved(6, d0=0.1, d3=0.3))
    assert DriftRefresh(neighbours=2).rank(shown, 2).tolist() == [4, 5, 1, 2]
    assert DriftRefresh(neighbours=2, sweep=0).select(shown, 2).tolist() == [4, 5]


def test_a_document_twice_as_old_has_twice_the_score() -> None:
    shown = view([9, 2, 0, 9, 7, 5], vectors=TWO_CLUSTERS, moved=moved(6, d0=0.1, d3=0.3))
    assert DriftRefresh(neighbours=2).rank(shown, 2).tolist() == [5, 2, 4, 1]


def test_several_neighbours_count_by_their_mean() -> None:
    vectors = circle(0, 1, 2, 180, 181)
    shown = view([9, 5, 9, 9, 5], vectors=vectors, moved=moved(5, d0=0.2, d2=0.3, d3=0.26))
    assert DriftRefresh(neighbours=1).rank(shown, 1).tolist() == [4, 1]
    shown = view([9, 5, 9, 9, 5], vectors=vectors, moved=moved(5, d0=0.2, d2=0.3, d3=0.24))
    assert DriftRefresh(neighbours=1).rank(shown, 1).tolist() == [1, 4]


def test_scores_agree_with_a_slow_reference() -> None:
    shown = random_view(80, seed=4)
    known = [row for row in range(80) if shown.alive[row] and not shown.moved[row].isnan()]
    sources = sorted(known, key=lambda row: (-int(shown.stamps[row]), -float(shown.moved[row]), row))[:20]
    lent: dict[int, list[float]] = {}
    vectors = shown.searcher.vectors_of(torch.arange(80))
    for source in sources:
        ranked = brute_force(vectors, vectors[source][None], 80)[0]
        for row in [row for row in ranked if row != source and shown.alive[row]][:5]:
            lent.setdefault(row, []).append(float(shown.moved[source]))
    scores = {row: sum(values) / len(values) * (10 - int(shown.stamps[row])) for row, values in lent.items()}
    ranked = DriftRefresh(neighbours=5, sources=20).rank(shown, 9).tolist()
    assert len(ranked) == len(scores)
    torch.testing.assert_close([scores[row] for row in ranked], sorted(scores.values(), reverse=True))


def test_sources_are_the_last_encoded_and_among_them_those_that_moved_most() -> None:
    shown = view([8, 2, 2, 9, 2, 2], vectors=TWO_CLUSTERS, moved=moved(6, d0=0.9, d3=0.1))
    assert DriftRefresh(neighbours=1, sources=1).rank(shown, 2).tolist() == [4]
    shown = view([9, 2, 2, 9, 2, 2], vectors=TWO_CLUSTERS, moved=moved(6, d0=0.9, d3=0.1))
    assert DriftRefresh(neighbours=1, sources=1).rank(shown, 2).tolist() == [1]
    assert shown.searcher.queries == 1


def test_removed_documents_lend_nothing_and_get_nothing() -> None:
    alive = torch.tensor([False, True, True, True, False, True])
    shown = view([9, 2, 2, 9, 2, 2], vectors=TWO_CLUSTERS, moved=moved(6, d0=0.9, d3=0.1), alive=alive)
    assert DriftRefresh(neighbours=1, sweep=0).rank(shown, 2).tolist() == [5]


def test_the_oldest_are_chosen_until_something_is_known_to_have_moved() -> None:
    shown = view([5, 3, 5, 3, 1, 3])
    assert DriftRefresh(sweep=0).select(shown, 3).tolist() == [1, 4, 5]
    assert shown.searcher.queries == 0


@pytest.mark.parametrize("arguments", [{"neighbours": 0}, {"sources": 0}])
def test_impossible_settings_are_refused(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ConfigError, match=f"refresh.init_args.{name}: expected at least 1; got 0"):
        DriftRefresh(**arguments)
