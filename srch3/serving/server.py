"""Serves an application until Ctrl-C, with uvicorn."""

import socket

import uvicorn
from starlette.types import ASGIApp

from srch3.errors import ConfigError
from srch3.serving.app import application
from srch3.serving.asking import Limits
from srch3.serving.guard import local_names

__all__ = ["Limits", "address_of", "application", "listen", "local_names", "server_for"]

_GRACE = 5
"""Seconds that requests have to come to their end after Ctrl-C."""

_BACKLOG = 1024
"""Connections that may wait for being accepted; those that come while the index is loaded are among them."""

_KEEP_ALIVE = 15
"""Seconds after which a connection is closed on which nothing is asked."""


def listen(host: str, port: int) -> socket.socket:
    """Takes a port.

    Args:
        host: Address or name of this machine to be bound to.
        port: Its number; with 0, any that is free.

    Raises:
        ConfigError: Another program has the port, it needs rights that we have not, or the host is not ours.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"port: expected a number from 0 to 65535; got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except socket.gaierror as error:
        raise ConfigError(f"host: expected an address of this machine; got {host!r} ({error.strerror})") from error
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"port: cannot listen at {host}, port {port} ({error.strerror}); choose another with --port"
        ) from error
    return listener


def address_of(listener: socket.socket) -> str:
    """Where a browser finds what is served.

    Args:
        listener: A bound socket.
    """
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def server_for(app: ASGIApp) -> uvicorn.Server:
    """A server with settings of its own, whatever else is installed; what it would say of each request is left out.

    Args:
        app: What is served.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
        )
    )
