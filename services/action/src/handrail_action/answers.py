"""What a reply means: it went well, there is none, or a failure with its class. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from handrail.contracts.jsonform import loads
from handrail.errors import Failure
from handrail.flow import Operation, System
from handrail.recovery import ErrorClass, FailureInfo, retry_after

from handrail_action.calls import Reply

Encode = Callable[[str, Mapping[str, Any]], bytes]

_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Good:
    """The system answered well. `value` is the answer by its contract, in the Confluent wire format."""

    value: bytes | None


@dataclass(frozen=True, slots=True)
class Absent:
    """The system says that there is none."""


Answer = Good | Absent | FailureInfo


def judge(system: System, operation: Operation, reply: Reply, encode: Encode, now: int) -> Answer:
    """Say what a reply means. `encode` checks the answer against its contract and raises Failure when it breaks it."""
    if reply.trouble is not None or reply.status is None:
        return _trouble(operation, reply)
    if reply.status in operation.absent:
        return Absent()
    error_class = system.classify(reply.status, safe=operation.safe)
    if error_class is None:
        return _good(operation, reply, encode)
    said = reply.body[:_SHOWN].decode("utf-8", "replace").strip()
    return FailureInfo(
        ErrorClass(error_class),
        message=f"{system.name} answered {reply.status}" + (f": {said}" if said else ""),
        retry_after_ms=retry_after(reply.retry_after, now),
    )


def _trouble(operation: Operation, reply: Reply) -> FailureInfo:
    """Nothing came back. What can't have arrived, and what changes nothing, may simply be tried again."""
    if reply.trouble == "too-late":
        return FailureInfo(ErrorClass.INFRA, message=reply.detail)  # we were busy; that says nothing about the system
    harmless = reply.trouble == "not-sent" or operation.safe
    return FailureInfo(ErrorClass.TRANSIENT if harmless else ErrorClass.UNKNOWN_OUTCOME, message=reply.detail)


def _good(operation: Operation, reply: Reply, encode: Encode) -> Answer:
    """The answer by its contract. One that can't be read says nothing about what happened."""
    unclear = ErrorClass.TRANSIENT if operation.safe else ErrorClass.UNKNOWN_OUTCOME
    if operation.response is None:
        return Good(None)
    try:
        values = loads(reply.body)
        if not isinstance(values, dict):
            return FailureInfo(unclear, message="the answer is not a JSON object")
        return Good(encode(operation.response, values))
    except ValueError:
        return FailureInfo(unclear, message="the answer is not JSON")
    except Failure as error:
        return FailureInfo(unclear, message=f"the answer breaks its contract: {error}", field=error.field)
