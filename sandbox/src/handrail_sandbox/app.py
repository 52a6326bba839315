"""The sandbox as a Starlette application: routes are values in a list."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from handrail_sandbox.bookkeeping import BookKeeper
from handrail_sandbox.control import Control
from handrail_sandbox.desk import Desk, call_of
from handrail_sandbox.operations import Operation
from handrail_sandbox.replies import problem, response
from handrail_sandbox.systems import OPERATIONS, SYSTEMS

logger = logging.getLogger("sandbox")


def build(keeper: BookKeeper, closing: asyncio.Event) -> Starlette:
    """Put the systems and the control endpoints together. `closing` is set when the server is to end."""
    desk = Desk(keeper, closing)
    calls = [Route(one.path, _endpoint(desk, one), methods=[one.method], name=one.name) for one in OPERATIONS]

    async def nothing_there(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        detail = f"there is nothing for {request.method} {request.url.path}"
        system = request.url.path.split("/")[1]
        if system in SYSTEMS:
            return desk.refuse(call_of(request, system, "", await request.body()), status, detail)
        return response(problem(status, detail))

    async def broken(_request: Request, error: Exception) -> Response:
        logger.error("a call was not taken: %s", error, exc_info=error)
        return response(problem(500, f"the sandbox itself failed, nothing was done: {error}"))

    return Starlette(
        routes=[*calls, *Control(keeper).routes()],
        exception_handlers={HTTPException: nothing_there, Exception: broken},
    )


def _endpoint(desk: Desk, operation: Operation) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return await desk.take(operation, request)

    return endpoint
