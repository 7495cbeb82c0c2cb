import random

import pytest
import torch
from torch import Tensor

from srch3.functional.mining import choose_hits, eligible_hits, forbidden_hits

SCORES = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]])
NONE = torch.zeros(1, 6, dtype=torch.bool)


def columns(eligible: Tensor) -> list[int]:
    return eligible[0].nonzero()[:, 0].tolist()


def test_texts_that_are_forbidden_empty_or_repeated_are_marked() -> None:
    texts = [["a", "b ", "", "c", "b", "a"], ["b", "a", "c", " c", "d", "e"]]
    marks = forbidden_hits(texts, [{"c"}, {" a ", "e"}])
    assert marks.tolist() == [
        [False, False, True, True, True, True],
        [False, True, False, True, False, True],
    ]


def test_ranks_are_counted_over_what_is_not_forbidden() -> None:
    forbidden = torch.tensor([[True, False, True, False, False, False]])
    positives = torch.tensor([0.9])
    assert columns(eligible_hits(SCORES, forbidden, positives, (1, 2))) == [1, 3]
    assert columns(eligible_hits(SCORES, forbidden, positives, (2, 9))) == [3, 4, 5]
    assert columns(eligible_hits(SCORES, forbidden, positives, (5, 9))) == []


@pytest.mark.parametrize(
    ("positive", "margin", "relative", "expected"),
    [
        (0.75, None, None, [0, 1, 2, 3, 4, 5]),
        (0.75, 0.0, None, [2, 3, 4, 5]),
        (0.75, 0.1, None, [3, 4, 5]),
        (0.75, None, 1.0, [2, 3, 4, 5]),
        (0.75, None, 0.9, [3, 4, 5]),  # at most 0.675
        (0.75, None, 0.6, [5]),  # at most 0.45
        (0.75, 0.2, 0.9, [4, 5]),  # at most 0.55 and 0.675
        (-0.1, None, 0.9, []),
    ],
)
def test_a_negative_scores_below_the_positive_as_asked(
    positive: float, margin: float | None, relative: float | None, expected: list[int]
) -> None:
    found = eligible_hits(SCORES, NONE, torch.tensor([positive]), (1, 6), margin, relative)
    assert columns(found) == expected


def test_the_share_of_a_negative_score_lies_below_it() -> None:
    scores = torch.tensor([[-0.05, -0.09, -0.1, -0.12, -0.2]])
    found = eligible_hits(scores, NONE[:, :5], torch.tensor([-0.1]), (1, 5), relative=0.9)
    assert columns(found) == [3, 4]  # at most -0.1 - 0.1 * 0.1


def test_each_query_has_a_positive_of_its_own() -> None:
    found = eligible_hits(SCORES.expand(2, -1), NONE.expand(2, -1), torch.tensor([0.65, 0.45]), (1, 6), margin=0.0)
    assert found.tolist() == [[False] * 3 + [True] * 3, [False] * 5 + [True]]


def test_the_best_are_chosen_or_some_are_drawn_in_the_order_of_their_scores() -> None:
    eligible = torch.tensor([[False, True, True, False, True, True], [True, False, False, False, False, False]])
    assert choose_hits(eligible, 2) == [[1, 2], [0]]
    assert choose_hits(eligible, 9) == [[1, 2, 4, 5], [0]]
    seen = set()
    for seed in range(50):
        first, second = choose_hits(eligible, 2, [random.Random(seed), random.Random(seed)])
        assert second == [0]
        seen.add(tuple(first))
    assert seen == {(1, 2), (1, 4), (1, 5), (2, 4), (2, 5), (4, 5)}


def slow_choice(
    scores: list[float], texts: list[str], banned: set[str], positive: float, count: int, ranks: tuple[int, int]
) -> list[int]:
    """One hit after the other, with margin 0.05 and share 0.9."""
    chosen: list[int] = []
    seen = set(banned)
    rank = 0
    for column, (score, text) in enumerate(zip(scores, texts, strict=True)):
        if text in seen:
            continue
        seen.add(text)
        rank += 1
        below = score <= positive - 0.05 and score <= positive - 0.1 * abs(positive)
        if ranks[0] <= rank <= ranks[1] and below and len(chosen) < count:
            chosen.append(column)
    return chosen


@pytest.mark.parametrize("seed", range(20))
def test_selection_equals_a_slow_loop(seed: int) -> None:
    draw = random.Random(seed)
    queries, hits = 5, 30
    scores = torch.rand(queries, hits, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    scores = scores.sort(dim=1, descending=True).values
    texts = [[draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(hits)] for _ in range(queries)]
    banned = [set(draw.sample("abcdefghijklmnopqrstuvwxyz", 3)) for _ in range(queries)]
    positives = scores[:, 4]
    eligible = eligible_hits(scores, forbidden_hits(texts, banned), positives, (3, 12), 0.05, 0.9)
    expected = [
        slow_choice(*row, 4, (3, 12)) for row in zip(scores.tolist(), texts, banned, positives.tolist(), strict=True)
    ]
    assert choose_hits(eligible, 4) == expected
