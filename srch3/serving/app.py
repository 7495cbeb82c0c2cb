"""The server's addresses: a page at ``/``, ``/search``, ``/stream`` and ``/health``."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from srch3.serving.answering import LinesResponse, Reply, json_response, whole
from srch3.serving.asking import Limits, read_question
from srch3.serving.contract import Searcher
from srch3.serving.guard import Guard, local_names
from srch3.serving.worker import BusyError, Job, StoppedError, Worker

_PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_ADDRESSES = "GET /, GET /health, POST /search or POST /stream"


def application(
    searcher: Searcher,
    host: str = "127.0.0.1",
    limits: Limits | None = None,
    max_waiting: int = 128,
    batch_size: int = 32,
    ready: Callable[[], None] = lambda: None,
) -> Starlette:
    """An application for any server that speaks ASGI, with a thread of its own that searches.

    Args:
        searcher: What answers; it is used in that thread alone.
        host: Address that the server is bound to; on this machine alone, only its names are answered.
        limits: What a question may ask for.
        max_waiting: Questions that may wait; more are refused with 503.
        batch_size: Questions that are answered together.
        ready: Is called once questions are answered.
    """
    service = _Service(searcher, limits or Limits(), Worker(searcher, max_waiting, batch_size))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.worker.start()
        ready()
        try:
            yield
        finally:
            service.worker.stop()

    routes = [Route(path, _static(*named), methods=["GET"]) for path, named in _PAGE.items()]
    routes += [
        Route("/health", service.health, methods=["GET"]),
        Route("/search", service.search, methods=["POST"]),
        Route("/stream", service.stream, methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, names=local_names(host))],
        exception_handlers={HTTPException: _explain, ClientDisconnect: _nobody, Exception: _defect},
        lifespan=lifespan,
    )


class _Service:
    """Answers requests."""

    def __init__(self, searcher: Searcher, limits: Limits, worker: Worker) -> None:
        self.documents = len(searcher)
        self.limits = limits
        self.worker = worker

    async def health(self, _: Request) -> Response:
        """Whether questions are answered, how many wait, and within which limits they have to be."""
        alive = self.worker.alive
        state = {"status": "ok" if alive else "stopped", "waiting": self.worker.waiting, "documents": self.documents}
        return json_response({**state, "limits": self.limits._asdict()}, 200 if alive else 503)

    async def search(self, request: Request) -> Response:
        """The answer in one piece."""
        job, reply, _ = await self._submit(request, streamed=False)
        return await whole(job, reply, request.receive, self.limits.max_text_chars)

    async def stream(self, request: Request) -> Response:
        """The thought as it is written, then the answer."""
        job, reply, before = await self._submit(request, streamed=True)
        return LinesResponse(job, reply, before, self.limits.max_text_chars)

    async def _submit(self, request: Request, streamed: bool) -> tuple[Job, Reply, int]:
        asked = await read_question(request, self.limits)
        reply = Reply()
        job = Job(asked, streamed, reply.tell)
        try:
            return job, reply, self.worker.submit(job)
        except BusyError as error:
            waiting = self.worker.max_waiting
            message = f"busy: expected fewer than {waiting} waiting questions; ask again in a while"
            raise HTTPException(503, message, {"Retry-After": "1"}) from error
        except StoppedError as error:
            raise HTTPException(503, "the server stops; ask again later") from error


def _static(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = files("srch3.serving").joinpath(name).read_bytes()

    async def page(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return page


async def _explain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code in {404, 405}:
        message = f"expected {_ADDRESSES}; got {request.method} {request.url.path[:100]}"
    return json_response({"error": message}, error.status_code, error.headers)


async def _nobody(_: Request, __: Exception) -> Response:
    """For a client that left before it had asked."""
    return Response(status_code=400)


async def _defect(_: Request, error: Exception) -> Response:
    return json_response({"error": f"the server failed ({type(error).__name__}); its log says why"}, 500)
