"""Ordering faults and reading the books over HTTP: what an outside system would never let its callers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from handrail_sandbox.bookkeeping import BookKeeper, Idempotency
from handrail_sandbox.books import MOST, page, summary
from handrail_sandbox.faults import RULES
from handrail_sandbox.operations import invalid
from handrail_sandbox.replies import Reply, problem, response
from handrail_sandbox.systems import SYSTEMS


class Setting(BaseModel):
    """What can be set for a system."""

    model_config = ConfigDict(extra="forbid")

    idempotency: Idempotency


class Control:
    """The endpoints whose paths begin with an underscore. None of them is logged as a call."""

    def __init__(self, keeper: BookKeeper) -> None:
        self._keeper = keeper

    def routes(self) -> list[Route]:
        """Where the endpoints are."""
        return [
            Route("/_health", self.health, methods=["GET"]),
            Route("/_faults", self.all_faults, methods=["GET"]),
            Route("/_faults/{system}", self.order_faults, methods=["PUT"]),
            Route("/_faults/{system}", self.mend, methods=["DELETE"]),
            Route("/_settings", self.all_settings, methods=["GET"]),
            Route("/_settings/{system}", self.set, methods=["PUT"]),
            Route("/_books/calls", self.rows("calls"), methods=["GET"]),
            Route("/_books/effects", self.rows("effects"), methods=["GET"]),
            Route("/_books/summary", self.summary, methods=["GET"]),
        ]

    async def health(self, _request: Request) -> Response:
        """That the server is there."""
        return response(Reply(200, {"status": "ok", "systems": list(SYSTEMS), "now": self._keeper.now()}))

    async def all_faults(self, _request: Request) -> Response:
        """Each system's faults and how often they were applied."""
        return response(Reply(200, {system: self._faults(system) for system in SYSTEMS}))

    async def order_faults(self, request: Request) -> Response:
        """Replace a system's faults by those in the body."""
        system = request.path_params["system"]
        if system not in SYSTEMS:
            return _no_system(system)
        try:
            rules = RULES.validate_json(await request.body())
        except ValidationError as error:
            return response(invalid(error, "list of faults"))
        self._keeper.order_faults(system, rules)
        return response(Reply(200, {system: self._faults(system)}))

    async def mend(self, request: Request) -> Response:
        """Take all faults off a system."""
        system = request.path_params["system"]
        if system not in SYSTEMS:
            return _no_system(system)
        self._keeper.order_faults(system, [])
        return Response(status_code=204)

    async def all_settings(self, _request: Request) -> Response:
        """What each system makes of idempotency keys."""
        return response(Reply(200, {system: self._setting(system) for system in SYSTEMS}))

    async def set(self, request: Request) -> Response:
        """Set what a system makes of idempotency keys."""
        system = request.path_params["system"]
        if system not in SYSTEMS:
            return _no_system(system)
        try:
            setting = Setting.model_validate_json(await request.body())
        except ValidationError as error:
            return response(invalid(error, "setting"))
        self._keeper.set_idempotency(system, setting.idempotency)
        return response(Reply(200, {system: self._setting(system)}))

    def rows(self, table: str) -> Callable[[Request], Any]:
        """An endpoint that gives a page of a table of the books, with the id to go on after."""

        async def endpoint(request: Request) -> Response:
            try:
                found = page(self._keeper.connection, table, dict(request.query_params))
            except ValueError as error:
                return response(problem(422, str(error)))
            limit = min(int(request.query_params.get("limit", MOST)), MOST)
            next_after = found[-1]["id"] if found and len(found) == limit else None
            return response(Reply(200, {"items": found, "next_after": next_after}))

        return endpoint

    async def summary(self, _request: Request) -> Response:
        """What happened at each system, in numbers."""
        return response(Reply(200, summary(self._keeper.connection)))

    def _faults(self, system: str) -> list[dict[str, Any]]:
        return [
            {**ordered.rule.model_dump(mode="json", exclude_none=True), "spent": ordered.spent}
            for ordered in self._keeper.faults(system)
        ]

    def _setting(self, system: str) -> dict[str, str]:
        return {"idempotency": self._keeper.idempotency(system).value}


def _no_system(system: str) -> Response:
    return response(problem(404, f"there is no system {system!r}; the systems are {', '.join(SYSTEMS)}"))
