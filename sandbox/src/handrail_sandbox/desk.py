"""The desk takes every call: logs it, lets a fault have its way or does what was asked, and answers."""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from handrail_sandbox.bookkeeping import BookKeeper, Call, Ending, Idempotency
from handrail_sandbox.connection import Cut, left
from handrail_sandbox.faults import CHANGING, Attempt, Kind, Ordered, choose
from handrail_sandbox.operations import Asked, Doing, Operation
from handrail_sandbox.replies import Reply, problem, response

BODY_CAP = 1024 * 1024

_FORGOTTEN = frozenset({Kind.ERROR_503, Kind.ERROR_429})
"""Refused before anything ran: an idempotent system does not remember these, as Stripe does not."""


class Desk:
    """Takes calls for the operations of all systems.

    What a call does is decided and committed in one go, without giving way to another call; only faults wait.
    `closing` is set when the server is to end: whoever waits is cut off.
    """

    def __init__(self, keeper: BookKeeper, closing: asyncio.Event) -> None:
        self._keeper = keeper
        self._closing = closing
        self._in_flight: set[tuple[str, str]] = set()

    async def take(self, operation: Operation, request: Request) -> Response:
        """Answer one call, or don't."""
        try:
            body = await _body(request)
        except ClientDisconnect:
            return Cut(request)
        call, asked = self._read(operation, request, body)
        if isinstance(asked, Reply):
            self._keeper.record(call, asked)
            return response(asked)
        known = self._known(call)
        if known is not None:
            reply, replayed = known
            self._keeper.record(call, reply, replayed=replayed)
            return response(reply)
        fault = choose(
            self._keeper.faults(call.system), Attempt(call.method, call.operation, call.reference, call.attempt)
        )
        if fault is not None and fault.rule.kind in (Kind.HANG, Kind.SLOW):
            return await self._hold(operation, request, call, asked, fault)
        return self._settle(operation, request, call, asked, fault)

    def refuse(self, call: Call, status: int, detail: str) -> Response:
        """Log and answer a call that no operation is there for."""
        reply = problem(status, detail)
        self._keeper.record(call, reply)
        return response(reply)

    def _read(self, operation: Operation, request: Request, body: bytes | None) -> tuple[Call, Asked | Reply]:
        call = call_of(request, operation.system, operation.name, body or b"")
        if body is None:
            return call, problem(413, f"the body is longer than {BODY_CAP} bytes")
        asked = operation.parse(request.path_params, request.query_params, body)
        if isinstance(asked, Reply):
            return call, asked
        reference = operation.reference(asked)
        attempt = self._keeper.attempts(call.system, call.operation, reference) + 1
        return call_of(request, operation.system, operation.name, body, reference, attempt), asked

    def _honoured_key(self, call: Call) -> str | None:
        if call.method not in CHANGING or self._keeper.idempotency(call.system) is Idempotency.IGNORED:
            return None
        return call.idempotency_key

    def _known(self, call: Call) -> tuple[Reply, bool] | None:
        """What is answered without doing anything because of the call's idempotency key, and whether it is a replay."""
        key = self._honoured_key(call)
        if key is None:
            return None
        if (call.system, key) in self._in_flight:
            return problem(409, f"a call with the idempotency key {key!r} is in flight"), False
        stored = self._keeper.stored(call.system, key)
        if stored is None:
            return None
        if stored.asks != call.asks():
            return problem(422, f"the idempotency key {key!r} was used for another request"), False
        return stored.reply, True

    async def _hold(self, operation: Operation, request: Request, call: Call, asked: Asked, fault: Ordered) -> Response:
        """Keep the caller waiting; a hang ends when it leaves, a slow call is done whether it is still there or not."""
        hangs = fault.rule.kind is Kind.HANG
        with self._keeper.transaction():
            number = self._keeper.open_call(call, ending=Ending.HUNG if hangs else Ending.OPEN, fault=fault)
        key = self._honoured_key(call)
        if key is not None:
            self._in_flight.add((call.system, key))
        try:
            shut = await self._wait(request, fault.rule.wait_ms() / 1000, until_left=hangs)
            if not hangs and not shut:
                return self._settle(operation, request, call, asked, fault, number)
            with self._keeper.transaction():
                self._keeper.close_call(number, Ending.HUNG if hangs else Ending.SHUT_DOWN, None)
            return Cut(request)
        finally:
            if key is not None:
                self._in_flight.discard((call.system, key))

    async def _wait(self, request: Request, seconds: float, *, until_left: bool) -> bool:
        """Wait; gives whether the server is to end."""
        waiting: list[asyncio.Task[Any]] = [asyncio.create_task(self._closing.wait())]
        if until_left:
            waiting.append(asyncio.create_task(left(request)))
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return self._closing.is_set()

    def _settle(
        self,
        operation: Operation,
        request: Request,
        call: Call,
        asked: Asked,
        fault: Ordered | None,
        number: int | None = None,
    ) -> Response:
        """Do it (or what the fault makes of it), with the log, in one transaction; then answer."""
        kind = fault.rule.kind if fault else None
        with self._keeper.transaction():
            if number is None:
                number = self._keeper.open_call(call, fault=fault)
            reply = self._answer(operation, asked, fault, number)
            for effect in reply.effects:
                self._keeper.log_effect(number, call, effect)
            key = self._honoured_key(call)
            if key is not None and kind not in _FORGOTTEN:
                self._keeper.store(call, key, reply)
            if kind is Kind.LOSE_REPLY:
                self._keeper.close_call(number, Ending.REPLY_LOST, None)
            else:
                self._keeper.close_call(number, Ending.REPLIED, reply.status)
        return Cut(request) if kind is Kind.LOSE_REPLY else response(reply)

    def _answer(self, operation: Operation, asked: Asked, fault: Ordered | None, number: int) -> Reply:
        kind = fault.rule.kind if fault else None
        wait = fault.rule.retry_after_s if fault else None
        if kind is Kind.ERROR_500:
            return problem(500, "the system failed before it did anything")
        if kind is Kind.ERROR_503:
            return problem(503, "the system is not available", {} if wait is None else {"Retry-After": str(wait)})
        if kind is Kind.ERROR_429:
            return problem(429, "too many calls", {"Retry-After": str(1 if wait is None else wait)})
        if kind is Kind.DO_NOTHING and operation.pretend is not None:
            return operation.pretend(asked, number)
        return operation.act(asked, Doing(self._keeper.connection, number, self._keeper.now()))


def call_of(request: Request, system: str, operation: str, body: bytes, reference: str = "", attempt: int = 0) -> Call:
    """The call as the books keep it."""
    query = request.url.query
    return Call(
        system=system,
        operation=operation,
        method=request.method,
        path=request.url.path + (f"?{query}" if query else ""),
        body=body.decode(errors="replace"),
        body_hash=blake2b(body, digest_size=16).hexdigest(),
        idempotency_key=request.headers.get("idempotency-key"),
        traceparent=request.headers.get("traceparent"),
        reference=reference,
        attempt=attempt,
    )


async def _body(request: Request) -> bytes | None:
    """The whole body, or None when it is longer than the cap; what is over it is read and thrown away."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= BODY_CAP:
            parts.append(part)
    return b"".join(parts) if size <= BODY_CAP else None
