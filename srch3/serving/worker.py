"""The one thread that searches: questions wait in a line, and are answered in batches."""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator
from threading import Condition, Thread
from typing import Any, NamedTuple

from srch3.errors import SearchError
from srch3.serving.asking import Asked
from srch3.serving.contract import Found, Searcher

logger = logging.getLogger(__name__)


class Piece(NamedTuple):
    """A part of a thought, as it is written.

    Attributes:
        text: It follows the parts before it without a gap.
    """

    text: str


class Answer(NamedTuple):
    """What was found.

    Attributes:
        found: With as many hits as were asked for, or more.
        seconds: Since the question was asked, waiting included.
    """

    found: Found
    seconds: float


class Failure(NamedTuple):
    """There will be no answer.

    Attributes:
        error: Why.
    """

    error: Exception


Event = Piece | Answer | Failure


class BusyError(Exception):
    """As many questions wait as may."""


class StoppedError(Exception):
    """The worker stops before the question's turn."""


class Job:
    """A question that waits for its answer.

    Args:
        asked: The question.
        streamed: Whether the thought is wanted as it is written.
        tell: Is called in the worker's thread with each part of the answer; the last one is no ``Piece``.
    """

    def __init__(self, asked: Asked, streamed: bool, tell: Callable[[Event], None]) -> None:
        self.asked = asked
        self.streamed = streamed
        self.tell = tell
        self.began = time.perf_counter()
        self.left = False

    def leave(self) -> None:
        """Says that nobody wants the answer any more; what has not begun will not, and a stream ends."""
        self.left = True

    def answer(self, found: Found) -> None:
        """Tells what was found."""
        self.tell(Answer(found, time.perf_counter() - self.began))


class _Stream(NamedTuple):
    job: Job
    parts: Generator[tuple[str, Any], None, None]


class Worker:
    """Answers one batch after another, and in between writes on at the thoughts that are streamed.

    A batch are the oldest question and those behind it in the same mode. After it, streams have as much time as it
    took, one part of each in turn; so neither keeps the other from its end, and a direct question is answered while
    others think. A question that fails in a batch is asked again alone, so that it fails for itself.

    Args:
        searcher: Is used in the worker's thread alone.
        max_waiting: Questions that may wait.
        batch_size: Questions answered together.
        max_streams: Thoughts written at the same time.
    """

    def __init__(self, searcher: Searcher, max_waiting: int = 128, batch_size: int = 32, max_streams: int = 8) -> None:
        self.searcher = searcher
        self.max_waiting = max_waiting
        self.batch_size = batch_size
        self.max_streams = max_streams
        self._waiting: deque[Job] = deque()
        self._streams: deque[_Stream] = deque()
        self._changed = Condition()
        self._stopping = False
        self._thread = Thread(target=self._work, name="srch3-search", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, patience: float = 10.0) -> None:
        """Ends the thread; who waits is told.

        Args:
            patience: Seconds that the search which is under way may take.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(patience)

    @property
    def alive(self) -> bool:
        """Whether questions will be answered."""
        return self._thread.is_alive() and not self._stopping

    @property
    def waiting(self) -> int:
        """Questions whose turn has not come, and whose client is still there."""
        with self._changed:
            return sum(not job.left for job in self._waiting)

    def submit(self, job: Job) -> int:
        """Puts a question at the end of the line.

        Args:
            job: The question.

        Returns:
            Number of those before it.

        Raises:
            BusyError: As many wait as may.
            StoppedError: The worker has stopped.
        """
        with self._changed:
            if not self.alive:
                raise StoppedError
            self._forget_those_who_left()
            before = len(self._waiting)
            if before >= self.max_waiting:
                raise BusyError
            self._waiting.append(job)
            self._changed.notify()
            return before

    def _forget_those_who_left(self) -> None:
        self._waiting = deque(job for job in self._waiting if not job.left)

    def _work(self) -> None:
        while self._wait():
            began = time.perf_counter()
            batch = self._next_batch()
            if batch:
                self._search(batch)
            until = 2 * time.perf_counter() - began
            self._advance_streams()
            while self._streams and time.perf_counter() < until:
                self._advance_streams()
        with self._changed:
            unanswered = [*self._waiting, *(stream.job for stream in self._streams)]
            self._waiting.clear()
        for stream in self._streams:
            _close(stream.parts)
        for job in unanswered:
            job.tell(Failure(StoppedError()))

    def _wait(self) -> bool:
        """Rests until there is something to do, and says whether there is."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._waiting or self._streams)
            return not self._stopping

    def _next_batch(self) -> list[Job]:
        """Takes the oldest question, with others in its mode, out of the line; begins streams that have room."""
        with self._changed:
            self._forget_those_who_left()
            batch: list[Job] = []
            rest: deque[Job] = deque()
            for job in self._waiting:
                if job.streamed and len(self._streams) < self.max_streams:
                    self._streams.append(_Stream(job, self._parts(job.asked)))
                elif not job.streamed and len(batch) < self.batch_size and _alike(job, batch):
                    batch.append(job)
                else:
                    rest.append(job)
            self._waiting = rest
            return batch

    def _parts(self, asked: Asked) -> Generator[tuple[str, Any], None, None]:
        """A stream that begins when its first part is wanted, and can be closed."""
        yield from self.searcher.stream(*asked)

    def _search(self, batch: list[Job]) -> None:
        queries, mode = [job.asked.query for job in batch], batch[0].asked.mode
        try:
            found = self.searcher.search_many(queries, max(job.asked.k for job in batch), mode)
            answered = list(zip(batch, found, strict=True))
        except SearchError as error:
            self._fail(batch, error)
            return
        except Exception as error:
            logger.exception("a search of %d queries failed", len(batch))
            self._fail(batch, error)
            return
        for job, one in answered:
            job.answer(one)

    def _fail(self, batch: list[Job], error: Exception) -> None:
        if len(batch) == 1:
            batch[0].tell(Failure(error))
            return
        for job in batch:
            self._search([job])

    def _advance_streams(self) -> None:
        """One part of each stream."""
        for _ in range(len(self._streams)):
            stream = self._streams.popleft()
            if self._advance(stream):
                self._streams.append(stream)

    def _advance(self, stream: _Stream) -> bool:
        """Passes on the next part of a stream, and says whether more will come."""
        job, parts = stream
        if job.left:
            _close(parts)
            return False
        try:
            kind, part = next(parts)
        except SearchError as error:
            job.tell(Failure(error))
            return False
        except Exception as error:
            logger.exception("a streamed search failed")
            job.tell(Failure(error))
            return False
        if kind == "thought":
            job.tell(Piece(part))
            return True
        job.answer(part)
        _close(parts)
        return False


def _alike(job: Job, batch: list[Job]) -> bool:
    return not batch or job.asked.mode == batch[0].asked.mode


def _close(parts: Generator[tuple[str, Any], None, None]) -> None:
    """Ends a stream, wherever it is."""
    try:
        parts.close()
    except Exception:
        logger.exception("a stream failed while it was ended")
