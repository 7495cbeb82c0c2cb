import math

import pytest
import torch
from torch import Tensor

from srch3.environments.refresh.graph import nearest, neighbourhoods
from tests.environments.refresh.views import Exhaustive, nearest_rows
from tests.indexes.clusters import clustered


def on_a_circle(degrees: list[float]) -> Exhaustive:
    angles = torch.tensor(degrees) * math.pi / 180
    return Exhaustive(torch.stack([angles.cos(), angles.sin()], dim=1), torch.ones(len(degrees), dtype=torch.bool))


def rows(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def test_neighbours_come_best_first_without_the_document_itself() -> None:
    searcher = on_a_circle([0, 10, 25, 90])
    assert nearest(searcher, rows(2, 0), 2).tolist() == [[1, 0], [1, 2]]
    assert nearest(searcher, rows(3), 9).tolist() == [[2, 1, 0]]


def test_neighbours_of_many_agree_with_a_slow_reference() -> None:
    vectors = clustered(70)
    found = nearest(Exhaustive(vectors, torch.ones(70, dtype=torch.bool)), torch.arange(0, 70, 7), 6)
    for row, near in zip(range(0, 70, 7), found.tolist(), strict=True):
        assert set(near) == nearest_rows(vectors, row, 6)


def test_a_document_that_its_twins_displace_has_as_many_neighbours() -> None:
    assert nearest(on_a_circle([5, 5, 5, 5, 90]), rows(3, 0), 2).tolist() == [[0, 1], [1, 2]]


def test_there_is_nothing_to_search_without_rows_or_without_neighbours() -> None:
    searcher = on_a_circle([0, 10])
    assert nearest(searcher, rows(), 3).shape == (0, 0)
    assert nearest(searcher, rows(1, 0), 0).shape == (2, 0)
    assert neighbourhoods(searcher, rows(), 3, 2) == []
    assert searcher.queries == 0


def test_the_only_document_has_no_neighbours() -> None:
    assert nearest(on_a_circle([0]), rows(0), 3).shape == (1, 0)
    assert [unit.tolist() for unit in neighbourhoods(on_a_circle([0]), rows(0), 3, 2)] == [[0]]


@pytest.mark.parametrize(("hops", "expected"), [(1, [0, 1]), (2, [0, 1, 2]), (3, [0, 1, 2, 3]), (9, [0, 1, 2, 3])])
def test_each_hop_reaches_one_link_further(hops: int, expected: list[int]) -> None:
    searcher = on_a_circle([40, 20, 10, 5])
    first, last = neighbourhoods(searcher, rows(0, 3), 1, hops)
    assert first.tolist() == expected
    assert last.tolist() == [2, 3]
