"""What a client may ask, within which limits, and what it is told where it asks for something else."""

import asyncio
import json
import re
from typing import Any, NamedTuple, NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import Request

from srch3.types import Mode

_BYTES_PER_CHARACTER = 12
"""A character beyond the basic plane as two JSON escapes, the longest that one can be written."""

_FRAME = 1000
"""Bytes for everything of a question but its query."""

_DRAINED = 64 * 2**20
"""Bytes of a body that is too large which are still received, so that its client comes to read the answer."""

_BODY_SECONDS = 30.0
"""After which a body has to be there."""

_MODE = re.compile(r"direct|thinking|(mean|budget)-([1-9][0-9]{0,5})")
_MOST_THOUGHTS = 16


class Limits(NamedTuple):
    """What a question may ask for, and how much of a document the answer has.

    Attributes:
        max_query_chars: Characters of a query.
        max_k: Documents.
        max_text_chars: Characters of each document that are sent.
    """

    max_query_chars: int = 10_000
    max_k: int = 100
    max_text_chars: int = 2_000

    @property
    def body_bytes(self) -> int:
        """Longest body in which a question within the limits can be written."""
        return _FRAME + _BYTES_PER_CHARACTER * self.max_query_chars


class Asked(NamedTuple):
    """One question.

    Attributes:
        query: What is searched for.
        k: How many documents are wanted.
        mode: ``direct``, ``thinking``, ``mean-N`` or ``budget-N``.
    """

    query: str
    k: int = 10
    mode: Mode = "thinking"


_DEFAULTS: dict[str, Any] = Asked._field_defaults


async def read_question(request: Request, limits: Limits) -> Asked:
    """Reads the body of a request.

    Args:
        request: Whose body has not been read.
        limits: Within which the question has to be.

    Raises:
        HTTPException: 400 for what is no JSON, 408, 413 and 415 for a body that is too slow, too large or of another
            type, 422 for JSON that asks for something else than searches; each with one line on what was expected.
        ClientDisconnect: The client left before all of it was there.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, f"Content-Type: expected application/json; got {kind[:100] or 'none'}")
    return parse_question(await _body(request, limits.body_bytes), limits)


async def _body(request: Request, limit: int) -> bytes:
    """The body; one that is too large is received, as far as that is bearable, and thrown away."""
    declared = request.headers.get("content-length", "")
    announced = int(declared[:18]) if declared.isdecimal() else 0
    if announced > (limit if "expect" in request.headers else _DRAINED):
        _too_large(limit)
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size <= limit:
                    parts.append(part)
                elif size > _DRAINED:
                    break
    except TimeoutError as late:
        raise HTTPException(408, f"body: expected all of it within {_BODY_SECONDS:.0f} seconds") from late
    if size > limit:
        _too_large(limit)
    return b"".join(parts)


def _too_large(limit: int) -> NoReturn:
    raise HTTPException(413, f"body: expected at most {limit} bytes; got more; shorten the query")


def parse_question(body: bytes, limits: Limits) -> Asked:
    """Takes a question out of JSON.

    Args:
        body: JSON with ``query`` and, if wanted, ``k`` and ``mode``.
        limits: Within which the question has to be.

    Raises:
        HTTPException: 400 for what is no JSON, 413 for a query that is too long, 422 for JSON that asks for something
            else than searches.
    """
    try:
        asked = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise HTTPException(400, "body: expected a JSON object; got one nested too deeply") from error
    except ValueError as error:
        raise HTTPException(400, f"body: expected JSON in UTF-8; got what is none ({error})") from error
    if not isinstance(asked, dict):
        _refuse("body", 'an object such as {"query": "…", "k": 10, "mode": "thinking"}', asked)
    unknown = next((key for key in asked if key not in Asked._fields), None)
    if unknown is not None:
        raise HTTPException(422, f"{_shown(unknown)}: unknown; expected {', '.join(Asked._fields)}")
    query = _query(asked.get("query"), limits.max_query_chars)
    k, mode = asked.get("k", _DEFAULTS["k"]), asked.get("mode", _DEFAULTS["mode"])
    if type(k) is not int or not 1 <= k <= limits.max_k:
        _refuse("k", f"a whole number from 1 to {limits.max_k}", k)
    found = _MODE.fullmatch(mode) if isinstance(mode, str) else None
    if found is None or (found[1] == "mean" and int(found[2]) > _MOST_THOUGHTS):
        _refuse("mode", f"direct, thinking, mean-N (N up to {_MOST_THOUGHTS}) or budget-N", mode)
    return Asked(query, k, mode)


def _query(query: Any, longest: int) -> str:
    if not isinstance(query, str) or not query.strip():
        _refuse("query", "a text that is not blank", query)
    if len(query) > longest:
        raise HTTPException(413, f"query: expected at most {longest} characters; got {len(query)}; shorten it")
    if any("\ud800" <= character <= "\udfff" for character in query):
        raise HTTPException(422, "query: expected Unicode text; got half of a surrogate pair")
    return query


def _refuse(name: str, expected: str, value: Any) -> NoReturn:
    raise HTTPException(422, f"{name}: expected {expected}; got {_shown(value)}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _shown(value: Any) -> str:
    """A value as JSON, or what kind of value it is, short enough for one line."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]} …"
