"""Answers as a client reads them: one JSON object, or one per line as the thought is written."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from srch3.errors import SearchError
from srch3.serving.asking import Asked
from srch3.serving.worker import Answer, Event, Failure, Job, Piece, StoppedError

_LEFT = 499
"""Status of an answer that nobody is there to read, as nginx numbers it."""


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in UTF-8; what is no Unicode is replaced by question marks.

    Args:
        content: What ``json`` can write.
        status: Of HTTP.
        headers: Beside the type of content.
    """
    return Response(_encode(content), status, headers, "application/json")


def _encode(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def result(asked: Asked, answer: Answer, max_text_chars: int) -> dict[str, Any]:
    """What was found, with the question that it answers.

    Args:
        asked: The question.
        answer: Its answer.
        max_text_chars: After which a document is cut, with an ellipsis.
    """
    found = answer.found
    hits = [
        {"rank": rank, "id": hit.id, "score": float(hit.score), "text": _cut(hit.text, max_text_chars)}
        for rank, hit in enumerate(found.hits[: asked.k], 1)
    ]
    written = {"thought": found.thought, "tokens": found.tokens, "seconds": round(answer.seconds, 4)}
    return {**asked._asdict(), **written, "hits": hits}


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


def failure(error: Exception) -> tuple[int, str]:
    """Status and message for a search that failed.

    Args:
        error: Why; what the client could mend is told, of the rest its kind alone.
    """
    if isinstance(error, SearchError):
        return 422, " ".join(str(error).split())
    if isinstance(error, StoppedError):
        return 503, "the server stops; ask again later"
    return 500, f"the search failed ({type(error).__name__}); the server's log says why"


class Reply:
    """The parts of an answer, from the worker's thread to where the client is served; made within the event loop."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def tell(self, event: Event) -> None:
        """Takes the next part, in any thread; of no consequence once the event loop has closed.

        Args:
            event: The part.
        """
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def parts(self, job: Job, receive: Receive) -> AsyncGenerator[Event, None]:
        """Yields the parts until the last one, or until the client leaves; the job is left then.

        Args:
            job: That this answers.
            receive: Of the request, whose body has been read.
        """
        event: Event = Piece("")
        gone = asyncio.ensure_future(_until_gone(receive))
        coming = asyncio.ensure_future(self._events.get())
        try:
            while isinstance(event, Piece):
                await asyncio.wait({gone, coming}, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    return
                event, coming = coming.result(), asyncio.ensure_future(self._events.get())
                yield event
        finally:
            gone.cancel()
            coming.cancel()
            job.leave()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def whole(job: Job, reply: Reply, receive: Receive, max_text_chars: int) -> Response:
    """The answer as one JSON object.

    Args:
        job: What was asked.
        reply: Where its answer comes.
        receive: Of the request.
        max_text_chars: After which a document is cut.
    """
    async with aclosing(reply.parts(job, receive)) as parts:
        async for event in parts:
            if isinstance(event, Answer):
                return json_response(result(job.asked, event, max_text_chars))
            if isinstance(event, Failure):
                status, message = failure(event.error)
                return json_response({"error": message}, status)
    return Response(status_code=_LEFT)


class LinesResponse(Response):
    """The answer as JSON lines (``application/x-ndjson``), each with an ``event``.

    ``waiting`` comes at once, with how many were ``before``; ``thought`` with a ``text`` for each part of it; at last
    ``found``, with what ``/search`` answers, or ``error``.

    Args:
        job: What was asked.
        reply: Where its answer comes.
        before: Questions that waited when it was asked.
        max_text_chars: After which a document is cut.
    """

    media_type = "application/x-ndjson"

    def __init__(self, job: Job, reply: Reply, before: int, max_text_chars: int) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.job = job
        self.reply = reply
        self.before = before
        self.max_text_chars = max_text_chars

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends line after line."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._lines(receive)) as lines:
            async for line in lines:
                await send({"type": "http.response.body", "body": _encode(line) + b"\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _lines(self, receive: Receive) -> AsyncGenerator[dict[str, Any], None]:
        yield {"event": "waiting", "before": self.before}
        async with aclosing(self.reply.parts(self.job, receive)) as parts:
            async for event in parts:
                match event:
                    case Piece(text):
                        yield {"event": "thought", "text": text}
                    case Failure(error):
                        yield {"event": "error", "error": failure(error)[1]}
                    case Answer():
                        yield {"event": "found", **result(self.job.asked, event, self.max_text_chars)}
