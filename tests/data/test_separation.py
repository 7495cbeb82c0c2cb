from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srch3.data.separation import _surplus, separated


def cut(texts: list[list[int]], size: int) -> list[list[int]]:
    """Queries come in their own order, each with its texts."""
    owners = np.repeat(np.arange(len(texts)), [len(own) for own in texts])
    return separated(np.arange(len(texts)), owners, np.array([text for own in texts for text in own]), size)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([[0], [1], [2], [3], [4]], [[0, 1], [2, 3]]),
        ([[0], [0], [1], [0], [2], [3]], [[0, 2], [1, 4], [3, 5]]),
        ([[0, 1], [2, 1], [3, 4], [5, 6]], [[0, 2], [1, 3]]),
        ([[0, 1], [1, 2], [2, 0], [3, 4], [5, 6], [7, 8]], [[0, 3], [1, 4], [2, 5]]),
        ([[0, 1], [1, 2], [0, 2], [3], [4], [5]], [[0, 3], [1, 4], [2, 5]]),
        ([[0], [0], [0], [0]], [[0, 1], [2, 3]]),
    ],
    ids=["nothing shared", "put off", "a second positive", "a ring", "waits for another", "nothing else"],
)
def test_queries_that_share_a_text_are_put_off(texts: list[list[int]], expected: list[list[int]]) -> None:
    assert cut(texts, 2) == expected


def test_what_is_put_off_together_does_not_meet_in_the_next_batch() -> None:
    # 2 and 3 are put off for the texts 0 and 1; they share text 2, so that one of them waits once more
    texts = [[0], [1], [0, 2], [1, 2], [3], [4], [5], [6], [7], [8], [9], [10]]
    assert cut(texts, 4) == [[0, 1, 4, 5], [2, 6, 7, 8], [3, 9, 10, 11]]


def test_a_surplus_is_spread_evenly_over_the_order() -> None:
    """Of ten queries with one text for four batches, six may share: those at (2 p + 1) 10 / 12, p = 0, 1, …, 5."""
    order = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    owners = np.arange(10)
    surplus = _surplus(order, owners, np.zeros(10, np.int64), batches=4)
    places = [(2 * p + 1) * 10 // 12 for p in range(6)]
    assert places == [0, 2, 4, 5, 7, 9]
    assert sorted(np.flatnonzero(surplus).tolist()) == sorted(order[places].tolist())


def test_no_surplus_where_there_are_batches_enough() -> None:
    texts = np.array([0, 0, 1, 1, 1])
    assert _surplus(np.arange(5), np.arange(5), texts, batches=3).tolist() == [False] * 5
    assert _surplus(np.arange(5), np.arange(5), texts, batches=2).tolist() == [False, False, False, True, False]


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=3, unique=True), min_size=1, max_size=40), st.data())
def test_every_batch_is_full_and_no_query_comes_twice(texts: list[list[int]], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(texts)))
    batches = cut(texts, size)
    assert [len(batch) for batch in batches] == [size] * (len(texts) // size)
    assert max(Counter(query for batch in batches for query in batch).values()) == 1
