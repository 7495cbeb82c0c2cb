"""What stands before every answer: headers that keep a browser from doing harm, and a look at whom it takes us for."""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from srch3.serving.answering import json_response

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer. Nothing is loaded from elsewhere, no page may hold ours in a frame, and no answer is kept."""


def local_names(host: str) -> frozenset[str] | None:
    """The names under which a server on this machine alone is asked; none in particular where others may ask too.

    Args:
        host: Address or name that the server is bound to.
    """
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return frozenset({"localhost", "127.0.0.1", "::1", host}) if local else None


class Guard:
    """Adds the headers, and refuses requests that were meant for another host.

    A page of another site can have its own name resolve to 127.0.0.1 and then ask whatever is served there, in the
    name of who looks at the page (DNS rebinding); the name in its requests gives it away.

    Args:
        app: What answers.
        names: Under which it may be asked; by default any.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] | None = None) -> None:
        self.app = app
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        asked = _name(Headers(scope=scope).get("host", ""))
        app = self.app
        if self.names is not None and asked not in self.names:
            known = ", ".join(sorted(self.names))
            app = json_response({"error": f"Host: expected one of {known}; got {asked[:100] or 'none'}"}, 403)
        await app(scope, receive, send_with_headers)


def _name(host: str) -> str:
    """A Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return host
