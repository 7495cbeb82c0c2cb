"""A thought as it is being written, for whoever reads it at their own pace."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from queue import SimpleQueue

from srch3.backbones.querying import EmbeddedQueries
from srch3.backbones.tokenization import Tokens


class _AbandonedError(Exception):
    """Nobody reads the thought any more."""


class Pieces:
    """Makes pieces of text of tokens that come one at a time; half a character waits for its other half.

    Args:
        decode: Tokens as text.
        stops: Tokens that are no part of a thought.
    """

    def __init__(self, decode: Callable[[Tokens], str], stops: list[int]) -> None:
        self._decode, self._stops = decode, set(stops)
        self._tokens: Tokens = []
        self.text = ""

    def add(self, token: int) -> str:
        """What can be shown since the last call, often nothing."""
        if token in self._stops:
            return ""
        self._tokens.append(token)
        return self.rest(self._decode(self._tokens).rstrip("\N{REPLACEMENT CHARACTER}"))

    def rest(self, thought: str) -> str:
        """What the thought has beyond that which was shown; nothing where it begins otherwise."""
        if not thought.startswith(self.text):
            return ""
        piece = thought[len(self.text) :]
        self.text = thought
        return piece


def stream(
    embed: Callable[[Callable[[Tokens], None]], EmbeddedQueries], pieces: Pieces, lock: threading.RLock
) -> Generator[str, None, EmbeddedQueries]:
    """Embeds one query in a thread of its own, and gives the thought as it grows.

    The thread is at most one token ahead of its reader, and while it waits the model is free for others. A reader who
    closes the generator ends the writing after the present token.

    Args:
        embed: Embeds the query, and calls what it is given with each token that it writes, while it holds the lock.
        pieces: Makes text of them.
        lock: Whose holder uses the model.

    Yields:
        Pieces of the thought, which together are the thought.

    Returns:
        The embedded query.
    """
    shown: SimpleQueue[str | None] = SimpleQueue()
    wanted, abandoned = threading.Semaphore(0), threading.Event()
    result: Future[EmbeddedQueries] = Future()

    def on_tokens(tokens: Tokens) -> None:
        shown.put(pieces.add(tokens[0]))
        lock.release()
        wanted.acquire()
        lock.acquire()
        if abandoned.is_set():
            raise _AbandonedError

    def work() -> None:
        try:
            result.set_result(embed(on_tokens))
        except BaseException as error:  # noqa: BLE001 (the reader gets it)
            result.set_exception(error)
        finally:
            shown.put(None)

    thread = threading.Thread(target=work, name="srch3-thought", daemon=True)
    thread.start()
    try:
        wanted.release()
        while (piece := shown.get()) is not None:
            if piece:
                yield piece
            wanted.release()
    finally:
        abandoned.set()
        wanted.release()
    thread.join()
    embedded = result.result()
    if last := pieces.rest(embedded.thoughts[0]):
        yield last
    return embedded
