"""A searcher whose answers tell which question they belong to, and a server around it."""

import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from starlette.types import ASGIApp

from srch3.errors import ConfigError
from srch3.serving.server import listen, server_for


class FakeHit(NamedTuple):
    id: str
    score: float
    text: str


class FakeFound(NamedTuple):
    thought: str
    tokens: int
    hits: list[FakeHit]


def found_for(query: str, k: int, mode: str, text: str = "text of") -> FakeFound:
    hits = [FakeHit(f"{query}/{rank}", 1 - rank / 1000, f"{text} {query}") for rank in range(1, k + 1)]
    return FakeFound("" if mode == "direct" else f"about {query}", 3, hits)


class FakeSearcher:
    """Each answer holds its query; a gate keeps it from answering until it is opened."""

    def __init__(self, text: str = "text of") -> None:
        self.text = text
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[list[str]] = []
        self.closed: list[str] = []
        self.threads: set[str] = set()

    def __len__(self) -> int:
        return 1234

    def search_many(self, queries: Sequence[str], k: int, mode: str) -> list[FakeFound]:
        self.threads.add(threading.current_thread().name)
        self.batches.append(list(queries))
        self.entered.set()
        assert self.gate.wait(20)
        if "defect" in queries:
            raise ZeroDivisionError("a secret")
        if "refused" in queries:
            raise ConfigError("mode: expected\nanother")
        return [found_for(query, k, mode, self.text) for query in queries]

    def stream(self, query: str, k: int, mode: str) -> Iterator[tuple[str, Any]]:
        self.threads.add(threading.current_thread().name)
        try:
            for piece in [] if mode == "direct" else ["about ", query]:
                yield "thought", piece
            while query == "endless":
                assert self.gate.wait(20)
                self.entered.set()
                yield "thought", "."
                time.sleep(0.001)
            if query == "defect":
                raise ZeroDivisionError("a secret")
            if query == "refused":
                raise ConfigError("mode: expected another")
            yield "found", found_for(query, k, mode, self.text)
        finally:
            self.closed.append(query)


@contextmanager
def serving(app: ASGIApp) -> Iterator[int]:
    """Serves in a thread; gives the port."""
    server = server_for(app)
    with closing(listen("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


class Reply(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


def request(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return Reply(answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()})


def ask(port: int, path: str, question: Any) -> Reply:
    body = question if isinstance(question, bytes) else json.dumps(question).encode()
    return request(port, "POST", path, body, Content_Type="application/json")
