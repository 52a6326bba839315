"""Ending a call without a reply: the connection is cut, as a crash or a broken network would."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

TRANSPORT = "transport"


class CuttableProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with the connection's transport in the state of each request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the transport where the application finds it."""
        self.app_state = {**self.app_state, TRANSPORT: transport}
        super().connection_made(transport)


class Cut(Response):
    """Not a response: closes the connection without one, so that the caller can't know what happened."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self._transport: Any = request.scope["state"][TRANSPORT]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - nothing is sent
        """Cut, and return only when the server knows: it would answer 500 otherwise."""
        self._transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass


async def left(request: Request) -> None:
    """Return when the caller has gone. The request's body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
