import logging
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from srch3.data.base import positives_of
from srch3.data.corpus import Corpus
from srch3.data.examples import Example
from srch3.data.loaders import TrainBatchBuilder
from srch3.data.sampler import EpochBatchSampler
from srch3.data.thoughts import ColumnThoughts
from srch3.data.windows import StreamLoader, WindowedStream
from srch3.errors import DataError
from srch3.types import Query

SIZE = 4


def read(epoch: int) -> Iterator[Example]:
    """50 rows, of which every fifth query comes twice, and every positive of ten."""
    return (Example(f"query {number - number % 5 // 4}", [f"text {number % 10}"], ["no"]) for number in range(50))


def cut(queries: Sequence[Query], corpus: Corpus, seed: int) -> tuple[EpochBatchSampler, TrainBatchBuilder]:
    texts, _ = positives_of(queries, corpus)
    return EpochBatchSampler(texts, SIZE, seed), TrainBatchBuilder(queries, corpus, ColumnThoughts(), seed=seed)


def loader(workers: int = 0, read: Any = read, window: int = 20, **settings: Any) -> StreamLoader:
    return StreamLoader(WindowedStream(read, cut, window, SIZE, **settings), workers)


def seen(source: StreamLoader, epochs: int = 1) -> list[list[str]]:
    return [batch.texts for _ in range(epochs) for batch in source]


def test_a_window_is_a_data_set_of_its_own() -> None:
    batches = seen(loader())
    assert [len(batch) for batch in batches] == [SIZE] * 10
    for number in range(2):
        queries = {query for batch in batches[number * 4 : number * 4 + 4] for query in batch}
        assert queries == {f"query {row - row % 5 // 4}" for row in range(20 * number, 20 * number + 20)}
    assert len({query for batch in batches[8:] for query in batch}) == 8
    (merged,) = [batch.relevant[batch.texts.index("query 3")] for batch in loader() if "query 3" in batch.texts]
    assert len(merged) == 2


def test_no_text_is_the_positive_of_two_queries_of_a_batch() -> None:
    def twins(epoch: int) -> Iterator[Example]:
        return (Example(f"query {number}", [f"text {number // 2}"], ["no"]) for number in range(80))

    batches = list(loader(read=twins, window=40))
    assert len(batches) == 20
    for batch in batches:
        texts = [text for positives in batch.positives for text in positives]
        assert len(set(texts)) == len(texts) == SIZE
        assert batch.negatives == [["no"]] * SIZE


def test_the_order_is_drawn_by_seed_epoch_and_window() -> None:
    assert seen(loader(), 2) == seen(loader(), 2)
    first, second = seen(loader(), 2)[:10], seen(loader(), 2)[10:]
    assert first != second
    assert first != seen(loader(seed=1))
    places = [[int(query.split()[1]) % 20 for batch in part for query in batch] for part in (first[:4], first[4:8])]
    assert places[0] != places[1]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("done", [0, 3, 10, 17])
def test_goes_on_at_any_batch_with_any_number_of_workers(workers: int, done: int) -> None:
    whole = seen(loader(), 3)
    interrupted = loader()
    batches = (batch.texts for _ in range(3) for batch in interrupted)
    assert [next(batches) for _ in range(done)] == whole[:done]
    resumed = loader(workers)
    resumed.load_state_dict(interrupted.state_dict())
    rest = seen(resumed, 1)
    assert rest == whole[done : done // 10 * 10 + 10]
    assert seen(resumed, 1) == whole[done // 10 * 10 + 10 :][:10]


def test_a_window_that_fills_no_batch_is_left_out() -> None:
    assert [len(batch) for batch in seen(loader(read=lambda epoch: list(read(epoch))[:22]))] == [SIZE] * 4


def test_too_few_examples_for_a_batch_are_refused() -> None:
    with pytest.raises(DataError, match="enough training queries for one batch; got fewer"):
        seen(loader(read=lambda epoch: list(read(epoch))[:3]))
    with pytest.raises(DataError, match="enough training queries"):
        seen(loader(read=lambda epoch: []))


def test_what_cannot_be_learnt_from_is_refused_or_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    def flawed(epoch: int) -> Iterator[Example]:
        for number, example in enumerate(read(epoch)):
            yield example._replace(positives=[]) if number % 10 == 0 else example

    with pytest.raises(DataError, match="no relevant document"):
        seen(loader(read=flawed))
    batches = seen(loader(read=flawed, invalid="skip"), 2)
    assert not any("query 10" in batch for batch in batches)
    assert [record.message for record in caplog.records] == ["train: left out as invalid: 5 with no relevant document"]


def test_resuming_with_another_window_is_said(caplog: pytest.LogCaptureFixture) -> None:
    place = loader().state_dict()
    loader().load_state_dict(place)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        loader(window=40).load_state_dict(place)
    assert "the resumed run had window 20 and this one has 40" in caplog.text


def test_is_sent_to_another_process_whole() -> None:
    stream = WindowedStream(read, cut, 20, SIZE)
    again = pickle.loads(pickle.dumps(stream))
    assert [draws for _, draws in again.batches(1, 3)] == [draws for _, draws in stream.batches(1, 3)]
