"""Who may talk to a page of this machine, by the headers that browsers send."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sanact.guard import Guard, allowed


@pytest.mark.parametrize(
    ("host", "origin", "passes"),
    [
        ("127.0.0.1:7860", None, True),
        ("localhost:7860", None, True),
        ("[::1]:7860", None, True),
        ("127.0.0.1", None, True),
        ("127.0.0.1:7860", "http://127.0.0.1:7860", True),
        ("evil.example:7860", None, False),  # a name that was made to point here
        ("evil.example:7860", "http://evil.example:7860", False),
        ("127.0.0.1:7860", "http://evil.example", False),  # a form of another site
        ("127.0.0.1:7860", "http://127.0.0.1:8000", False),  # another server of this machine
        ("127.0.0.1:7860", "null", False),  # a sandboxed frame
        ("127.0.0.1.evil.example:7860", None, False),
        ("", None, False),
    ],
)
def test_only_a_page_of_this_very_server_is_answered(host, origin, passes):
    assert allowed(host, origin) == passes
    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    status, sent = answer({"type": "http", "headers": headers})
    assert (status == 200) == passes
    assert (b"x-frame-options", b"DENY") in sent and (b"content-security-policy", b"frame-ancestors 'none'") in sent


def test_a_socket_from_elsewhere_is_closed():
    assert answer({"type": "websocket", "headers": [(b"host", b"evil.example")]}) == (1008, [])


def answer(scope: dict[str, Any]) -> tuple[int, list[tuple[bytes, bytes]]]:
    """What comes back: the status and the headers, or the code that a socket was closed with."""
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    asyncio.run(Guard(app)(scope, receive, send))
    return sent[0].get("status", sent[0].get("code")), sent[0].get("headers", [])
