"""Clients that search, leave, and send what they should not; each checks what it is told."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

KINDS = {"direct": 0.5, "thinking": 0.25, "stream": 0.2, "leave": 0.05}
"""What a client does next, with its share."""

TOLERANCE = 1e-3
"""Scores of one query may differ by so much with what is computed beside it."""


class Expected(NamedTuple):
    """What a query finds when nothing else is asked.

    Attributes:
        ids: Of the hits, best first.
        scores: Of the hits.
        thought: What is written.
    """

    ids: list[str]
    scores: list[float]
    thought: str


@dataclass
class Tally:
    """What happened.

    Attributes:
        seconds: By kind, what each answer took.
        mixed: Answers that belong to another query.
        otherwise: Answers to the right query with other hits than it finds alone: rounding changed its thought.
        lost: Questions that got no whole answer, or an unforeseen status.
        left: Clients that left before their answer.
        refused: What was told about questions that are none, by status.
        complaints: The first of what was wrong, in words.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in KINDS if name != "leave"})
    mixed: int = 0
    otherwise: int = 0
    lost: int = 0
    left: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)


class Connection:
    """One connection that is kept for several questions, as browsers and libraries do."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes) -> int:
        """Sends a question; returns the status, its body yet to be read."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await self._writer.drain()
        return int((await self._line()).split()[1])

    async def read(self) -> bytes:
        """The body of an answer."""
        assert self._reader is not None
        headers = {}
        while line := await self._line():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        if "content-length" in headers:
            return await self._reader.readexactly(int(headers["content-length"]))
        parts = []
        while size := int(await self._line(), 16):
            parts.append(await self._reader.readexactly(size))
            await self._line()
        await self._line()
        return b"".join(parts)

    async def _line(self) -> str:
        assert self._reader is not None
        return (await self._reader.readuntil(b"\r\n"))[:-2].decode("latin-1")

    def close(self) -> None:
        """Leaves at once."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._writer = None


async def load(
    port: int, expected: Mapping[tuple[str, str], Expected], clients: int, seconds: float, seed: int = 0
) -> Tally:
    """Has clients ask for a while, and one more send what is no question.

    Args:
        port: Of the server.
        expected: For each query and mode, what it finds alone.
        clients: Who ask one question after the other.
        seconds: For which they go on.
        seed: Of what they ask.
    """
    tally, until = Tally(), time.perf_counter() + seconds
    askers = [_ask_on(port, expected, until, random.Random(f"{seed} {number}"), tally) for number in range(clients)]
    await asyncio.gather(*askers, _disturb(port, until, tally))
    return tally


async def _ask_on(
    port: int, expected: Mapping[tuple[str, str], Expected], until: float, draw: random.Random, tally: Tally
) -> None:
    connection, queries = Connection(port), sorted({query for query, _ in expected})
    names, shares = list(KINDS), list(KINDS.values())
    while time.perf_counter() < until:
        (kind,), query = draw.choices(names, shares), draw.choice(queries)
        try:
            async with asyncio.timeout(60):
                if kind == "leave":
                    await _leave(port, query, draw.random() < 0.5, draw.random() / 5, tally)
                else:
                    await _ask(connection, kind, query, expected, tally)
        except (OSError, EOFError, TimeoutError, ValueError, KeyError) as error:
            tally.lost += 1
            tally.complaints.append(f"{kind} {query!r}: {type(error).__name__}: {error}")
            connection.close()
    connection.close()


async def _ask(
    connection: Connection, kind: str, query: str, expected: Mapping[tuple[str, str], Expected], tally: Tally
) -> None:
    mode = "direct" if kind == "direct" else "thinking"
    began = time.perf_counter()
    body = json.dumps({"query": query, "k": len(expected[query, mode].ids), "mode": mode}).encode()
    status = await connection.post("/stream" if kind == "stream" else "/search", body)
    content = await connection.read()
    if status != 200:
        raise ValueError(f"status {status}: {content[:200]!r}")
    *before, answer = [json.loads(line) for line in content.splitlines()]
    tally.seconds[kind].append(time.perf_counter() - began)
    if kind == "stream" and "".join(event["text"] for event in before[1:]) != answer["thought"]:
        raise ValueError("the pieces are not the thought")
    _check(answer, query, mode, expected, tally)


def _check(
    answer: Mapping[str, Any], query: str, mode: str, expected: Mapping[tuple[str, str], Expected], tally: Tally
) -> None:
    if (answer["query"], answer["mode"]) == (query, mode) and _is(answer, expected[query, mode]):
        return
    others = [asked for asked, wanted in expected.items() if asked != (query, mode) and _is(answer, wanted)]
    if answer["query"] != query or answer["mode"] != mode or others:
        tally.mixed += 1
        tally.complaints.append(f"{query!r}: got the answer of {others[:1] or answer['query']!r}")
    elif mode == "direct":
        raise ValueError(f"other hits than alone: {[hit['id'] for hit in answer['hits']]}")
    else:
        tally.otherwise += 1


def _is(answer: Mapping[str, Any], expected: Expected) -> bool:
    """Whether the hits are those expected; such as score alike may have changed places."""
    scores = {hit["id"]: hit["score"] for hit in answer["hits"]}
    pairs = zip(sorted(scores.values(), reverse=True), expected.scores, strict=True)
    near = all(abs(mine - other) <= TOLERANCE for mine, other in pairs)
    sure = [
        name
        for name, score in zip(expected.ids, expected.scores, strict=True)
        if score > expected.scores[-1] + TOLERANCE
    ]
    return near and set(sure) <= scores.keys() and answer["thought"] == expected.thought


async def _leave(port: int, query: str, streamed: bool, after: float, tally: Tally) -> None:
    """Asks, and is gone before the answer is read."""
    connection = Connection(port)
    body = json.dumps({"query": query, "mode": "thinking"}).encode()
    asking = asyncio.create_task(connection.post("/stream" if streamed else "/search", body))
    await asyncio.wait({asking}, timeout=after)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    connection.close()
    tally.left += 1


async def _disturb(port: int, until: float, tally: Tally) -> None:
    """Sends what is too large or broken, every second."""
    questions: Sequence[tuple[bytes, int]] = (
        (json.dumps({"query": "x" * 10_000_000}).encode(), 413),
        (b'{"query": "a', 400),
        (b"\xff\xfe", 400),
        (b'{"query": 3}', 422),
        (b'{"query": "a", "k": 1000000}', 422),
    )
    while time.perf_counter() < until:
        for body, wanted in questions:
            connection = Connection(port)
            try:
                async with asyncio.timeout(60):
                    status = await connection.post("/search", body)
                    message = json.loads(await connection.read())["error"]
                    if status != wanted or not message:
                        raise ValueError(f"status {status}: {message}")
                    tally.refused[str(status)] += 1
            except (OSError, EOFError, TimeoutError, ValueError, KeyError) as error:
                tally.lost += 1
                tally.complaints.append(f"{body[:20]!r}: {type(error).__name__}: {error}")
            connection.close()
        await asyncio.sleep(1)
