import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import pytest

from srch3.errors import ConfigError
from srch3.serving.asking import Asked
from srch3.serving.worker import Answer, BusyError, Event, Failure, Job, Piece, StoppedError, Worker
from tests.serving.fakes import FakeFound, FakeSearcher


class Client:
    """Submits a question, and reads its answer."""

    def __init__(self, query: str, streamed: bool = False, mode: str = "direct", k: int = 2) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.job = Job(Asked(query, k, mode), streamed, self.events.put)

    def next(self) -> Any:
        return self.events.get(timeout=20)

    def ids(self) -> list[str]:
        event = self.next()
        assert isinstance(event, Answer)
        assert isinstance(event.found, FakeFound)
        return [hit.id for hit in event.found.hits]


@contextmanager
def working(searcher: Any, **settings: int) -> Iterator[Worker]:
    worker = Worker(searcher, **settings)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


@contextmanager
def occupied(searcher: FakeSearcher, worker: Worker) -> Iterator[None]:
    """Within it, the worker is held by a question, so that others wait."""
    searcher.gate.clear()
    searcher.entered.clear()
    first = Client("first")
    worker.submit(first.job)
    assert searcher.entered.wait(20)
    yield
    searcher.gate.set()
    assert first.ids() == ["first/1", "first/2"]


def test_each_question_gets_its_own_answer() -> None:
    with working(FakeSearcher()) as worker:
        clients = [Client(f"q{number}", k=1 + number % 3) for number in range(100)]
        for client in clients:
            worker.submit(client.job)
        for number, client in enumerate(clients):
            assert client.ids()[: client.job.asked.k] == [f"q{number}/{rank + 1}" for rank in range(1 + number % 3)]


def test_who_waits_is_answered_in_batches_of_one_mode() -> None:
    searcher = FakeSearcher()
    with working(searcher, batch_size=3) as worker, occupied(searcher, worker):
        modes = ["direct", "thinking", "direct", "direct", "direct", "thinking"]
        clients = [Client(str(number), mode=mode) for number, mode in enumerate(modes)]
        assert [worker.submit(client.job) for client in clients] == [0, 1, 2, 3, 4, 5]
        assert worker.waiting == 6
    assert [client.ids()[0] for client in clients] == [f"{number}/1" for number in range(6)]
    assert searcher.batches == [["first"], ["0", "2", "3"], ["1", "5"], ["4"]]
    assert searcher.threads == {"srch3-search"}


def test_no_more_than_the_limit_wait() -> None:
    searcher = FakeSearcher()
    with working(searcher, max_waiting=2) as worker, occupied(searcher, worker):
        clients = [Client("a"), Client("b")]
        for client in clients:
            worker.submit(client.job)
        with pytest.raises(BusyError):
            worker.submit(Client("c").job)
        clients[0].job.leave()
        assert worker.waiting == 1
        worker.submit(Client("d").job)
    assert clients[1].ids() == ["b/1", "b/2"]
    assert searcher.batches == [["first"], ["b", "d"]]


def test_a_question_that_fails_does_not_take_others_along(caplog: pytest.LogCaptureFixture) -> None:
    searcher = FakeSearcher()
    with working(searcher) as worker, occupied(searcher, worker):
        clients = [Client(query) for query in ["good", "defect", "refused", "fine"]]
        for client in clients:
            worker.submit(client.job)
    events = [client.next() for client in clients]
    assert [type(event) for event in events] == [Answer, Failure, Failure, Answer]
    assert [event.found.hits[0].id for event in events[::3]] == ["good/1", "fine/1"]
    assert isinstance(events[1].error, ZeroDivisionError)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError] * 2


def test_too_few_answers_fail_instead_of_being_mixed(caplog: pytest.LogCaptureFixture) -> None:
    class Short(FakeSearcher):
        def search_many(self, queries: Any, k: int, mode: str) -> list[FakeFound]:
            return super().search_many(queries, k, mode)[: len(queries) // 2 + 1]

    searcher = Short()
    with working(searcher) as worker, occupied(searcher, worker):
        clients = [Client("a"), Client("b"), Client("c")]
        for client in clients:
            worker.submit(client.job)
    assert [client.ids()[0] for client in clients] == ["a/1", "b/1", "c/1"]
    assert caplog.records[0].levelno == logging.ERROR


def test_a_stream_brings_the_thought_and_then_the_hits() -> None:
    searcher = FakeSearcher()
    with working(searcher) as worker:
        client = Client("a", streamed=True, mode="thinking")
        worker.submit(client.job)
        assert [client.next(), client.next()] == [Piece("about "), Piece("a")]
        assert client.ids() == ["a/1", "a/2"]
    assert searcher.closed == ["a"]


def test_questions_are_answered_while_others_think() -> None:
    searcher = FakeSearcher()
    with working(searcher, max_streams=2) as worker:
        endless = [Client("endless", streamed=True, mode="thinking") for _ in range(2)]
        late = Client("late", streamed=True, mode="thinking")
        for client in [*endless, late]:
            worker.submit(client.job)
        for client in endless:
            assert [client.next() for _ in range(4)][2:] == [Piece("."), Piece(".")]
        direct = Client("quick")
        worker.submit(direct.job)
        assert direct.ids() == ["quick/1", "quick/2"]
        assert late.events.empty()
        endless[0].job.leave()
        assert late.next() == Piece("about ")
    assert sorted(searcher.closed) == ["endless", "endless", "late"]


def test_a_stream_nobody_reads_ends_and_leaves_the_worker_running() -> None:
    searcher = FakeSearcher()
    with working(searcher) as worker:
        client = Client("endless", streamed=True, mode="thinking")
        worker.submit(client.job)
        assert client.next() == Piece("about ")
        client.job.leave()
        other = Client("b")
        worker.submit(other.job)
        assert other.ids() == ["b/1", "b/2"]
        deadline = time.monotonic() + 20
        while searcher.closed != ["endless"] and time.monotonic() < deadline:
            time.sleep(0.01)
    assert searcher.closed == ["endless"]


@pytest.mark.parametrize(("query", "kind"), [("defect", ZeroDivisionError), ("refused", ConfigError)])
def test_a_stream_that_fails_says_so(query: str, kind: type[Exception]) -> None:
    with working(FakeSearcher()) as worker:
        client = Client(query, streamed=True, mode="direct")
        worker.submit(client.job)
        assert isinstance(client.next().error, kind)
        other = Client("b")
        worker.submit(other.job)
        assert other.ids() == ["b/1", "b/2"]


def test_a_stream_that_fails_while_it_is_ended_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(FakeSearcher):
        def stream(self, query: str, k: int, mode: str) -> Iterator[tuple[str, Any]]:
            try:
                yield from super().stream(query, k, mode)
            finally:
                raise ValueError("stubborn")

    with working(Stubborn()) as worker:
        client = Client("endless", streamed=True, mode="thinking")
        worker.submit(client.job)
        assert client.next() == Piece("about ")
        client.job.leave()
        other = Client("b")
        worker.submit(other.job)
        assert other.ids() == ["b/1", "b/2"]
    assert "while it was ended" in caplog.text


def test_who_waits_when_the_worker_stops_is_told() -> None:
    searcher = FakeSearcher()
    worker = Worker(searcher)
    worker.start()
    assert worker.alive
    with occupied(searcher, worker):
        waiting = Client("b")
        worker.submit(waiting.job)
        stopping = threading.Thread(target=worker.stop)
        stopping.start()
        while worker.alive:
            time.sleep(0.001)
    stopping.join(20)
    assert isinstance(waiting.next().error, StoppedError)
    with pytest.raises(StoppedError):
        worker.submit(Client("c").job)


def test_a_thread_that_has_not_begun_takes_no_questions() -> None:
    with pytest.raises(StoppedError):
        Worker(FakeSearcher()).submit(Client("a").job)
