import json
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from srch3.serving.asking import Asked, Limits, parse_question

LIMITS = Limits(max_query_chars=20, max_k=50)


def refused(body: bytes) -> tuple[int, str]:
    with pytest.raises(HTTPException) as caught:
        parse_question(body, LIMITS)
    assert "\n" not in caught.value.detail
    assert len(caught.value.detail) < 250
    return caught.value.status_code, caught.value.detail


def test_what_is_not_said_has_a_default() -> None:
    assert parse_question(b'{"query": "a b"}', LIMITS) == Asked("a b", 10, "thinking")


@pytest.mark.parametrize("mode", ["direct", "thinking", "mean-1", "mean-16", "budget-8"])
def test_modes_are_taken(mode: str) -> None:
    assert parse_question(json.dumps({"query": " ä\n", "k": 50, "mode": mode}).encode(), LIMITS) == (" ä\n", 50, mode)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"query": "a"} x', b'{"k": NaN}', b'{"k": 1' + b"0" * 5000 + b"}", b"[" * 100_000],
    ids=["empty", "open", "not utf-8", "more", "nan", "long number", "deep"],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    status, message = refused(body)
    assert status == 400
    assert message.startswith("body: expected ")


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (["a"], 'body: expected an object such as {"query": "…", "k": 10, "mode": "thinking"}; got a list'),
        ({"q": "a"}, '"q": unknown; expected query, k, mode'),
        ({}, "query: expected a text that is not blank; got null"),
        ({"query": " \n"}, 'query: expected a text that is not blank; got " \\n"'),
        ({"query": {"a": 1}}, "query: expected a text that is not blank; got an object"),
        ({"query": "\ud800"}, "query: expected Unicode text; got half of a surrogate pair"),
        ({"query": "a", "k": 0}, "k: expected a whole number from 1 to 50; got 0"),
        ({"query": "a", "k": 51}, "k: expected a whole number from 1 to 50; got 51"),
        ({"query": "a", "k": True}, "k: expected a whole number from 1 to 50; got true"),
        ({"query": "a", "k": 2.0}, "k: expected a whole number from 1 to 50; got 2.0"),
        ({"query": "a", "k": None}, "k: expected a whole number from 1 to 50; got null"),
        ({"query": "a", "k": "x" * 999}, f'k: expected a whole number from 1 to 50; got "{"x" * 59} …'),
        ({"query": "a", "mode": "mean-17"}, "mode: expected direct, thinking, mean-N (N up to 16) or budget-N"),
        ({"query": "a", "mode": "shuffled"}, "mode: expected direct, thinking, mean-N (N up to 16) or budget-N"),
        ({"query": "a", "mode": 3}, "mode: expected direct, thinking, mean-N (N up to 16) or budget-N; got 3"),
        ({"query": "a", "mode": "direct\n"}, "mode: expected direct, thinking"),
    ],
)
def test_what_asks_for_something_else_is_refused(question: Any, message: str) -> None:
    status, told = refused(json.dumps(question).encode())
    assert status == 422
    assert told.startswith(message)


def test_a_query_may_be_as_long_as_its_limit_and_no_longer() -> None:
    assert parse_question(json.dumps({"query": "x" * 20}).encode(), LIMITS).query == "x" * 20
    status, message = refused(json.dumps({"query": "x" * 21}).encode())
    assert (status, message) == (413, "query: expected at most 20 characters; got 21; shorten it")


def test_the_longest_body_fits_however_its_query_is_written() -> None:
    body = json.dumps({"query": "\U0001f600" * 20, "k": 50, "mode": "budget-999999"}).encode()
    assert len(body) > 20 * 12
    assert len(body) <= LIMITS.body_bytes
