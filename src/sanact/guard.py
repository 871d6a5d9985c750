"""A guard for a page that only this machine may use, whatever other pages are open in its browser."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL = {"127.0.0.1", "localhost", "[::1]"}
FRAMED = [(b"x-frame-options", b"DENY"), (b"content-security-policy", b"frame-ancestors 'none'")]


class Guard:
    """ASGI middleware: refuses requests made by other sites, and tells browsers not to show the page inside another.

    A request passes if its Host is this machine and its Origin, if any, is the same host and port.  This refuses forms of
    other sites, and names of other sites that were made to point here (DNS rebinding).
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not allowed(headers.get("host", ""), headers.get("origin")):
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008})
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain"), *FRAMED]})
            return await send({"type": "http.response.body", "body": b"this page is for its own machine alone"})

        async def unframed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *FRAMED]
            await send(message)

        return await self.app(scope, receive, unframed)


def allowed(host: str, origin: str | None) -> bool:
    """Whether a request with these headers comes from a page of this same server, or from no page."""
    name = host.rsplit(":", 1)[0] if host[-1:] != "]" else host
    return name in LOCAL and (origin is None or urlsplit(origin).netloc == host)
