import asyncio
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from starlette.types import Message, Scope

from srch3.serving.answering import Reply, failure, json_response
from srch3.serving.app import application
from srch3.serving.asking import Limits
from srch3.serving.guard import Guard, local_names
from srch3.serving.worker import Piece, StoppedError
from tests.serving.fakes import FakeSearcher, ask, request, serving


@pytest.fixture(scope="module")
def searcher() -> FakeSearcher:
    return FakeSearcher()


@pytest.fixture(scope="module")
def port(searcher: FakeSearcher) -> Iterator[int]:
    with serving(application(searcher, limits=Limits(max_query_chars=1000, max_text_chars=12), max_waiting=60)) as port:
        yield port


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def waiting(port: int) -> int:
    return int(request(port, "GET", "/health").json["waiting"])


def open_request(port: int, path: str, question: Any) -> socket.socket:
    body = json.dumps(question).encode()
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    connection.sendall(f"{head}\r\n\r\n".encode() + body)
    return connection


def test_a_search_is_answered_in_json(port: int) -> None:
    reply = ask(port, "/search", {"query": "ä 😀", "k": 2})
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    answer = reply.json
    assert 0 <= answer.pop("seconds") < 20
    assert answer == {
        "query": "ä 😀",
        "k": 2,
        "mode": "thinking",
        "thought": "about ä 😀",
        "tokens": 3,
        "hits": [
            {"rank": 1, "id": "ä 😀/1", "score": 0.999, "text": "text of ä 😀"},
            {"rank": 2, "id": "ä 😀/2", "score": 0.998, "text": "text of ä 😀"},
        ],
    }


def test_long_documents_are_cut(port: int) -> None:
    assert ask(port, "/search", {"query": "12345", "k": 1}).json["hits"][0]["text"] == "text of 1234…"


def test_a_stream_is_answered_line_by_line(port: int) -> None:
    reply = ask(port, "/stream", {"query": "a", "k": 1})
    assert (reply.status, reply.headers["content-type"]) == (200, "application/x-ndjson")
    *before, found = reply.lines
    assert before == [
        {"event": "waiting", "before": 0},
        {"event": "thought", "text": "about "},
        {"event": "thought", "text": "a"},
    ]
    assert (found["event"], found["query"], found["hits"][0]["id"]) == ("found", "a", "a/1")


def test_both_ways_of_asking_find_the_same(port: int) -> None:
    whole = ask(port, "/search", {"query": "x", "k": 3, "mode": "direct"}).json
    found = ask(port, "/stream", {"query": "x", "k": 3, "mode": "direct"}).lines[-1]
    assert found.pop("event") == "found"
    assert {**whole, "seconds": 0} == {**found, "seconds": 0}


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("defect", 500, "the search failed (ZeroDivisionError); the server's log says why"),
        ("refused", 422, "mode: expected another"),
    ],
)
def test_a_search_that_fails_is_explained(port: int, query: str, status: int, message: str) -> None:
    reply = ask(port, "/search", {"query": query})
    assert (reply.status, reply.json) == (status, {"error": message})
    assert ask(port, "/stream", {"query": query}).lines[-1] == {"event": "error", "error": message}


def test_broken_json_is_explained_and_the_connection_goes_on(port: int) -> None:
    for body in [b"{", b"", b"\xff"]:
        reply = ask(port, "/search", body)
        assert reply.status == 400
        assert reply.json["error"].startswith("body: expected JSON in UTF-8; got what is none")
    assert ask(port, "/stream", {"query": 3}).json == {
        "error": "query: expected a text that is not blank; got 3",
    }


def test_another_type_of_content_is_explained(port: int) -> None:
    reply = request(port, "POST", "/search", b'{"query": "a"}', Content_Type="text/plain")
    assert (reply.status, reply.json) == (415, {"error": "Content-Type: expected application/json; got text/plain"})
    assert request(port, "POST", "/search", b"{}").status == 415


def test_ten_megabytes_are_refused_after_they_were_sent(port: int) -> None:
    reply = ask(port, "/search", {"query": "x" * 10_000_000})
    assert (reply.status, reply.json) == (
        413,
        {"error": "body: expected at most 13000 bytes; got more; shorten the query"},
    )
    assert ask(port, "/search", {"query": "x" * 1001}).json["error"].startswith("query: expected at most 1000 char")
    assert ask(port, "/search", {"query": "x" * 1000, "k": 1}).status == 200


@pytest.mark.parametrize(
    ("head", "more"),
    [
        ("Expect: 100-continue\r\nContent-Length: 10000000", b""),
        ("Content-Length: 999999999", b""),
        ("Transfer-Encoding: chunked", b"100000\r\n" + b"x" * 0x100000 + b"\r\n"),
    ],
    ids=["asks first", "announces too much", "never ends"],
)
def test_what_is_too_large_is_refused_however_it_comes(port: int, head: str, more: bytes) -> None:
    with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as connection:
        start = f"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{head}\r\n\r\n"
        connection.sendall(start.encode())
        answer = b""
        try:
            for _ in range(70 if more else 0):
                connection.sendall(more)
        except OSError:
            assert more
        try:
            answer = connection.recv(4096)
        except ConnectionResetError:
            assert more
    assert b" 413 " in answer or more
    assert request(port, "GET", "/health").status == 200


def test_a_body_that_does_not_come_is_not_waited_for(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srch3.serving.asking._BODY_SECONDS", 0.2)
    with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as connection:
        connection.sendall(
            b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        assert b" 408 " in connection.recv(4096)


def test_a_client_that_leaves_before_it_has_asked_is_no_defect(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as connection:
        connection.sendall(
            b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
    assert ask(port, "/search", {"query": "a"}).status == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_client_that_leaves_a_stream_ends_it(port: int, searcher: FakeSearcher) -> None:
    searcher.closed.clear()
    with closing(open_request(port, "/stream", {"query": "endless"})) as connection:
        until(lambda: b"about" in connection.recv(4096))
    until(lambda: searcher.closed == ["endless"])
    assert ask(port, "/search", {"query": "a"}).status == 200


def test_who_leaves_while_waiting_is_not_searched_for(port: int, searcher: FakeSearcher) -> None:
    searcher.gate.clear()
    searcher.entered.clear()
    with closing(open_request(port, "/search", {"query": "first"})):
        assert searcher.entered.wait(20)
        gone = [open_request(port, path, {"query": "gone", "k": 1}) for path in ("/search", "/stream")]
        until(lambda: waiting(port) == 2)
        for connection in gone:
            connection.close()
        until(lambda: waiting(port) == 0)
    searcher.gate.set()
    assert ask(port, "/search", {"query": "a"}).status == 200
    assert all("gone" not in batch for batch in searcher.batches)


def test_more_than_may_wait_are_told_to_come_again(port: int, searcher: FakeSearcher) -> None:
    searcher.gate.clear()
    searcher.entered.clear()
    with closing(open_request(port, "/search", {"query": "first"})):
        assert searcher.entered.wait(20)
        held = [open_request(port, "/search", {"query": "held"}) for _ in range(60)]
        until(lambda: waiting(port) == 60)
        reply = ask(port, "/stream", {"query": "one more"})
        searcher.gate.set()
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert reply.json == {"error": "busy: expected fewer than 60 waiting questions; ask again in a while"}
        assert all(connection.recv(12) == b"HTTP/1.1 200" for connection in held)
        for connection in held:
            connection.close()


def test_fifty_clients_get_their_own_answers(port: int) -> None:
    def client(number: int) -> int:
        wrong = 0
        for turn in range(20):
            query, path = f"client {number} turn {turn}", "/stream" if turn % 4 == 3 else "/search"
            reply = ask(port, path, {"query": query, "k": 1 + turn % 5, "mode": "direct" if turn % 2 else "thinking"})
            answer = reply.lines[-1]
            ids = [hit["id"] for hit in answer["hits"]]
            wrong += answer["query"] != query or ids != [f"{query}/{rank + 1}" for rank in range(1 + turn % 5)]
        return wrong

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(client, range(50))) == [0] * 50


def test_health_says_what_is_served(port: int) -> None:
    reply = request(port, "GET", "/health")
    limits = {"max_query_chars": 1000, "max_k": 100, "max_text_chars": 12}
    assert (reply.status, reply.json) == (200, {"status": "ok", "waiting": 0, "documents": 1234, "limits": limits})


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/other", 404), ("GET", "/search", 405)])
def test_other_addresses_are_explained(port: int, method: str, path: str, status: int) -> None:
    reply = request(port, method, path)
    expected = "expected GET /, GET /health, POST /search or POST /stream"
    assert (reply.status, reply.json) == (status, {"error": f"{expected}; got {method} {path}"})


@pytest.mark.parametrize(("path", "kind"), [("/", "html"), ("/page.css", "css"), ("/page.js", "javascript")])
def test_the_page_loads_nothing_from_elsewhere(port: int, path: str, kind: str) -> None:
    reply = request(port, "GET", path)
    assert (reply.status, reply.headers["content-type"]) == (200, f"text/{kind}; charset=utf-8")
    assert re.search(rb"//[^ ]", reply.body) is None
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_names_of_other_hosts_are_refused(port: int) -> None:
    for name in ["evil.example", "evil.example:8000", "localhost.evil.example", "[::1", ""]:
        reply = request(port, "GET", "/health", Host=name)
        assert (reply.status, reply.json["error"].partition(";")[0]) == (
            403,
            "Host: expected one of 127.0.0.1, ::1, localhost",
        )
    assert [request(port, "GET", "/health", Host=name).status for name in ["LOCALHOST:1", "[::1]:80"]] == [200, 200]


def test_only_this_machine_has_names_to_go_by() -> None:
    assert local_names("127.0.0.2") == {"localhost", "127.0.0.1", "::1", "127.0.0.2"}
    assert local_names("localhost") == local_names("::1") == {"localhost", "127.0.0.1", "::1"}
    assert local_names("0.0.0.0") is None
    assert local_names("search.example") is None


def test_what_is_no_unicode_can_be_sent() -> None:
    assert json.loads(json_response({"text": "a\ud800b"}).body) == {"text": "a?b"}


def test_a_defect_of_the_server_is_told_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("srch3.serving.answering.result", broken)
    with serving(application(FakeSearcher())) as port:
        reply = ask(port, "/search", {"query": "a"})
    assert (reply.status, reply.json) == (
        500,
        {"error": "the server failed (ZeroDivisionError); its log says why"},
    )


def test_a_server_that_stops_answers_who_waits() -> None:
    searcher = FakeSearcher()
    searcher.gate.clear()
    ready = threading.Event()
    app = application(searcher, ready=ready.set)
    with ThreadPoolExecutor(1) as pool, serving(app) as port:
        assert ready.wait(20)
        answer = pool.submit(ask, port, "/search", {"query": "a", "k": 1})
        assert searcher.entered.wait(20)
        threading.Timer(0.5, searcher.gate.set).start()
    assert answer.result(20).json["hits"][0]["id"] == "a/1"


def test_a_question_that_comes_too_late_is_told(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> None:
        raise StoppedError

    assert failure(StoppedError()) == (503, "the server stops; ask again later")
    monkeypatch.setattr("srch3.serving.worker.Worker.submit", stopped)
    reply = ask(port, "/search", {"query": "a"})
    assert (reply.status, reply.json) == (503, {"error": "the server stops; ask again later"})


def test_an_answer_after_the_end_is_of_no_consequence() -> None:
    async def make() -> Reply:
        return Reply()

    reply = asyncio.run(make())
    assert reply.tell(Piece("late")) is None


def test_what_is_not_http_passes_the_guard() -> None:
    seen: list[str] = []

    async def app(scope: Scope, *_: Any) -> None:
        seen.append(scope["type"])

    async def nothing(*_: Any) -> Message:
        return {}

    asyncio.run(Guard(app, {"localhost"})({"type": "lifespan"}, nothing, nothing))
    assert seen == ["lifespan"]
