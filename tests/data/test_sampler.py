from collections import Counter
from itertools import chain, islice
from typing import Any

import numpy as np
import pytest

from srch3.data import Draw, EpochBatchSampler
from srch3.data.sampler import Lengths
from srch3.errors import ConfigError


def distinct(queries: int) -> list[list[int]]:
    return [[query] for query in range(queries)]


def draws_of(batches: list[list[Draw]]) -> list[Draw]:
    return [draw for batch in batches for draw in batch]


def test_each_query_comes_once_per_epoch_and_a_short_last_batch_is_dropped() -> None:
    sampler = EpochBatchSampler(distinct(22), batch_size=5)
    assert len(sampler) == 4
    queries = [draw.query for draw in draws_of(sampler.batches(0))]
    assert len(queries) == len(set(queries)) == 20


def test_the_only_batch_is_kept_even_if_short() -> None:
    sampler = EpochBatchSampler(distinct(3), batch_size=5)
    assert len(sampler) == 1
    assert sampler.batch_size == 3
    assert sorted(draw.query for draw in sampler.batches(0)[0]) == [0, 1, 2]


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    one, same, other = (EpochBatchSampler(distinct(40), 4, seed=seed) for seed in (3, 3, 4))
    first = one.batches(0)
    assert one.batches(1) != first
    assert one.batches(0) == same.batches(0) == first
    assert other.batches(0) != first


def test_a_stream_from_any_position_is_the_rest_of_the_stream_from_the_start() -> None:
    sampler = EpochBatchSampler(distinct(21), batch_size=4)
    whole = list(islice(sampler.stream(0), 15))
    assert whole == sampler.batches(0) + sampler.batches(1) + sampler.batches(2)
    for position in range(15):
        assert list(islice(sampler.stream(position), 15 - position)) == whole[position:]


def test_ranks_split_every_global_batch_into_contiguous_shares() -> None:
    alone = EpochBatchSampler(distinct(30), batch_size=6)
    ranks = [EpochBatchSampler(distinct(30), batch_size=2, rank=rank, world_size=3) for rank in range(3)]
    assert [len(sampler) for sampler in ranks] == [5, 5, 5]
    together = [list(chain(*shares)) for shares in zip(*(sampler.batches(2) for sampler in ranks), strict=True)]
    assert together == alone.batches(2)


def test_ranks_get_equal_shares_of_a_short_only_batch() -> None:
    ranks = [EpochBatchSampler(distinct(7), batch_size=8, rank=rank, world_size=2) for rank in range(2)]
    batches = [sampler.batches(0) for sampler in ranks]
    assert [[len(batch) for batch in part] for part in batches] == [[3], [3]]
    assert len({draw.query for part in batches for draw in draws_of(part)}) == 6


def test_no_two_positives_of_a_batch_share_a_text_while_others_are_left() -> None:
    texts = [[query % 10] for query in range(100)]
    sampler = EpochBatchSampler(texts, batch_size=5)
    for epoch in range(5):
        batches = sampler.batches(epoch)
        assert len({draw.query for draw in draws_of(batches)}) == 100
        clashes = [len(batch) - len({texts[draw.query][0] for draw in batch}) for batch in batches]
        assert sum(clashes[:-3]) == 0


def test_unavoidable_clashes_are_spread_over_the_epoch() -> None:
    texts = [[0] for _ in range(40)] + [[query] for query in range(1, 61)]
    sampler = EpochBatchSampler(texts, batch_size=10)
    for epoch in range(5):
        batches = sampler.batches(epoch)
        copies = [sum(texts[draw.query] == [0] for draw in batch) for batch in batches]
        assert sum(copies) == 40
        assert min(copies) >= 1
        assert max(copies) <= 8


def test_a_text_that_is_everywhere_still_fills_the_batches() -> None:
    texts = [[0] for _ in range(8)] + [[1], [2]]
    batches = EpochBatchSampler(texts, batch_size=5).batches(0)
    assert [len(batch) for batch in batches] == [5, 5]
    assert sorted(draw.query for draw in draws_of(batches)) == list(range(10))


def test_deferred_queries_come_first_in_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [[0], [0], [1], [0], [2], [3]]
    sampler = EpochBatchSampler(texts, batch_size=2)
    monkeypatch.setattr(sampler, "_order", lambda *_: np.arange(6))
    assert [[draw.query for draw in batch] for batch in sampler.batches(0)] == [[0, 2], [1, 4], [3, 5]]


def choices_of(sampler: EpochBatchSampler, epoch: int) -> dict[int, tuple[int, ...]]:
    return {draw.query: draw.choices for draw in draws_of(sampler.batches(epoch))}


def test_the_positive_is_drawn_evenly_and_anew_each_epoch() -> None:
    sampler = EpochBatchSampler([[0, 1, 2], [3]], batch_size=2)
    choices = [choices_of(sampler, epoch) for epoch in range(300)]
    counts = Counter(choice[0] for choice in choices)
    assert sorted(counts) == [(0,), (1,), (2,)]
    assert min(counts.values()) > 70
    assert {choice[1] for choice in choices} == {(0,)}


def test_several_positives_are_drawn_without_replacement_as_far_as_there_are_any() -> None:
    sampler = EpochBatchSampler([[0, 1, 2], [3], [4, 5]], batch_size=3, choices=2)
    counts = Counter(choices_of(sampler, epoch)[0] for epoch in range(600))
    assert sorted(counts) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert min(counts.values()) > 70
    assert choices_of(sampler, 0)[1] == (0,)
    assert sorted(choices_of(sampler, 0)[2]) == [0, 1]


def test_relevant_documents_of_the_same_text_count_as_one() -> None:
    sampler = EpochBatchSampler([[7, 9, 7, 7], [8]], batch_size=2, choices=4)
    assert {tuple(sorted(choices_of(sampler, epoch)[0])) for epoch in range(20)} == {(0, 1)}
    one = EpochBatchSampler([[7, 9, 7, 7], [8]], batch_size=2)
    counts = Counter(choices_of(one, epoch)[0] for epoch in range(300))
    assert sorted(counts) == [(0,), (1,)]
    assert min(counts.values()) > 110


def test_no_text_is_a_positive_of_two_examples_of_a_batch_while_others_are_left() -> None:
    texts = [[query % 40, 40 + query % 41] for query in range(400)]
    sampler = EpochBatchSampler(texts, batch_size=8, choices=2)
    for epoch in range(5):
        batches = sampler.batches(epoch)
        assert len({draw.query for draw in draws_of(batches)}) == 400
        found = [[texts[draw.query][choice] for draw in batch for choice in draw.choices] for batch in batches]
        assert [len(numbers) for numbers in found] == [16] * 50
        assert sum(len(numbers) - len(set(numbers)) for numbers in found[:-3]) == 0


def lengths_of(queries: int) -> Lengths:
    """Query q has q % 7 characters and its two documents 10 (q % 13) and 1000, so that both count."""
    return Lengths([query % 7 for query in range(queries)], [[10 * (query % 13), 1000] for query in range(queries)])


def total_length(lengths: Lengths, draw: Draw) -> int:
    return lengths.queries[draw.query] + sum(lengths.positives[draw.query][choice] for choice in draw.choices)


@pytest.mark.parametrize("choices", [1, 2])
def test_buckets_hold_examples_of_similar_length(choices: int) -> None:
    positives = [[2 * query, 2 * query + 1] for query in range(200)]
    lengths = lengths_of(200)
    settings: dict[str, Any] = {"batch_size": 10, "choices": choices}
    plain = EpochBatchSampler(positives, **settings)
    sampler = EpochBatchSampler(positives, **settings, bucket_batches=10, lengths=lengths)
    batches = sampler.batches(0)
    windows = [draws_of(plain.batches(0))[first : first + 100] for first in (0, 100)]
    expected = [
        sorted(total_length(lengths, draw) for draw in window)[first : first + 10]
        for window in windows
        for first in range(0, 100, 10)
    ]
    found = [sorted(total_length(lengths, draw) for draw in batch) for batch in batches]
    assert sorted(found) == sorted(expected)
    assert found != sorted(found)


def test_batches_of_buckets_come_in_another_order_each_epoch() -> None:
    lengths = Lengths(list(range(60)), [[0]] * 60)
    sampler = EpochBatchSampler(distinct(60), 3, bucket_batches=20, lengths=lengths)
    orders = [[batch[0].query // 3 for batch in sampler.batches(epoch)] for epoch in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in [*orders, sorted(orders[0])]}) == 4


def test_what_the_last_batch_drops_does_not_depend_on_length() -> None:
    lengths = Lengths(list(range(23)), [[0]] * 23)
    bucketed = EpochBatchSampler(distinct(23), 10, bucket_batches=2, lengths=lengths)
    plain = EpochBatchSampler(distinct(23), 10)
    for epoch in range(5):
        kept, expected = ({draw.query for draw in draws_of(each.batches(epoch))} for each in (bucketed, plain))
        assert kept == expected


def test_buckets_and_several_positives_stay_a_function_of_seed_epoch_and_share() -> None:
    positives = [[query % 9, 9 + query % 11, 20 + query] for query in range(97)]
    settings: dict[str, Any] = {"choices": 2, "bucket_batches": 3, "seed": 5}
    lengths = Lengths(list(range(97)), [[query % 5, 3, 8] for query in range(97)])
    alone = EpochBatchSampler(positives, 12, lengths=lengths, **settings)
    ranks = [EpochBatchSampler(positives, 6, rank=rank, world_size=2, lengths=lengths, **settings) for rank in (0, 1)]
    for epoch in range(3):
        together = [first + second for first, second in zip(*(rank.batches(epoch) for rank in ranks), strict=True)]
        assert together == alone.batches(epoch)
    whole = list(islice(alone.stream(0), 20))
    assert all(list(islice(alone.stream(start), 20 - start)) == whole[start:] for start in range(20))
    assert [draw.epoch for batch in whole for draw in batch] == [0] * 96 + [1] * 96 + [2] * 48


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1; got 0"),
        ({"batch_size": 1, "seed": -1}, "seed: expected at least 0; got -1"),
        ({"batch_size": 1, "world_size": 4}, "per process; got 3 for 4"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EpochBatchSampler(distinct(3), **settings)
