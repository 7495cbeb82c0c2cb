"""``python -m srch3 serve``: an index behind HTTP, with a page to search with."""

import importlib
import sys
from collections.abc import Sequence
from contextlib import closing
from types import ModuleType

from srch3.commands.calling import call
from srch3.errors import ConfigError
from srch3.inference.precision import Precision
from srch3.inference.searcher import Searcher

EPILOG = """\
addresses:
  GET  /         a page to search with
  POST /search   {"query": "…", "k": 10, "mode": "thinking"} -> JSON with the thought and the hits
  POST /stream   the same, as JSON lines: the thought as it is written, then the hits
  GET  /health   whether questions are answered, and how many wait

Modes are direct, thinking, mean-N and budget-N. There is no password: with a --host other than 127.0.0.1, everybody who
reaches this machine may search. Ctrl-C stops the server.

examples:
  python -m srch3 serve --index INDEX
  curl -H 'Content-Type: application/json' -d '{"query": "sum of a list"}' http://127.0.0.1:8000/search
"""


def run(args: Sequence[str]) -> None:
    """Serves until Ctrl-C.

    Args:
        args: The words after ``serve``.
    """
    call(serve, args, EPILOG)


def serve(
    index: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    model: str | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    max_query_chars: int = 10_000,
    max_k: int = 100,
    max_text_chars: int = 2_000,
    max_waiting: int = 128,
    batch_size: int = 32,
) -> None:
    """Answers searches in an index in JSON, and shows a page to search with.

    Args:
        index: A folder that ``index`` wrote.
        host: Address to be bound to: 127.0.0.1 for this machine alone, 0.0.0.0 for everybody who reaches it.
        port: Its number; with 0, any that is free.
        model: A checkpoint or exported folder; by default the one that the index was built with.
        device: Where to compute; by default on a GPU, where there is one.
        precision: Of the model; by default float32 if documents are, otherwise auto.
        max_query_chars: Longest query.
        max_k: Most hits of a query.
        max_text_chars: After which the text of a hit is cut.
        max_waiting: Questions that may wait for their answer; more are told to come again.
        batch_size: Waiting questions that are answered together.

    Raises:
        ConfigError: A number is too small, the address cannot be used, or the server library is not installed.
        CheckpointError: The index belongs to other weights, or is damaged.
    """
    numbers = {"max_query_chars": max_query_chars, "max_k": max_k, "max_text_chars": max_text_chars}
    for name, number in {**numbers, "max_waiting": max_waiting, "batch_size": batch_size}.items():
        if number < 1:
            raise ConfigError(f"{name}: expected 1 or more; got {number}")
    server = _library()
    with closing(server.listen(host, port)) as listener:
        searcher = Searcher.load(index, model, device, precision)
        if server.local_names(host) is None:
            sys.stderr.write(f"host: whoever reaches this machine may search, at {host}; there is no password\n")

        def ready() -> None:
            sys.stdout.write(f"{len(searcher)} documents at {server.address_of(listener)} (Ctrl-C stops it)\n")
            sys.stdout.flush()

        app = server.application(searcher, host, server.Limits(**numbers), max_waiting, batch_size, ready)
        server.server_for(app).run(sockets=[listener])


def _library() -> ModuleType:
    """The server, whose libraries are not needed for anything else."""
    try:
        return importlib.import_module("srch3.serving.server")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"starlette", "uvicorn"}:
            raise
        raise ConfigError(f"serve: expected {error.name} to be installed: pip install 'srch3[serve]'") from error
