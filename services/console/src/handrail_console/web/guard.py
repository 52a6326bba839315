"""What stands around every answer: who may ask, and what a browser may do with it."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex",
}


class Guard:
    """Outside of everything else, so that errors have the headers, too. `hosts` are the names to answer to; None: any."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if self._hosts is not None and host_of(Headers(scope=scope).get("host", "")) not in self._hosts:
            told = "this page does not answer to that name: HANDRAIL_WEB_HOSTS says which ones it has\n"
            await PlainTextResponse(told, 421)(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


def host_of(given: str) -> str:
    """The name in a Host header, without its port."""
    name, _, port = given.rpartition(":")
    host = name if name and port.isdecimal() and not name.endswith(":") else given
    return host.lower().removeprefix("[").removesuffix("]")
