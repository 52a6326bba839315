"""The vocabulary between services: what a handler takes and gives. No broker, no acknowledgement inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Which run a message moves. `id` is a UUIDv8 (handrail.identity.run_id)."""

    id: str
    flow: str
    version: int


@dataclass(frozen=True, slots=True)
class Message:
    """One decoded message.

    `type` is its contract's name, `<domain>/<event>.v<N>`. `key` is the route: the business key of the run that the
    message moves. `cause` is the id of the message that made this one. `time` is in ms since the epoch. `replay` is
    the generation of the dead letter that this message comes from, 0 otherwise. `value` holds the bytes that `body` was
    decoded from, in the Confluent wire format.
    """

    id: str
    key: str
    type: str
    body: Mapping[str, Any]
    value: bytes
    time: int
    run: Run | None = None
    cause: str | None = None
    traceparent: str | None = None
    replay: int = 0

    @property
    def trace(self) -> str | None:
        """The trace's id, 32 hex digits: the second part of a W3C traceparent."""
        return self.traceparent.split("-")[1] if self.traceparent else None


@dataclass(frozen=True, slots=True)
class Output:
    """One message to be sent. Its id, cause and trace are set by the stage unless given. `key` is the route.

    Give `body` to have it encoded by the contract `type`, or `value` to send bytes that are encoded already. A `public`
    topic gets CloudEvents headers instead of ours.
    """

    topic: str
    type: str
    key: str
    body: Mapping[str, Any] | None = None
    value: bytes | None = None
    run: Run | None = None
    id: str | None = None
    public: bool = False
    cause: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Relay:
    """Original bytes, sent on as they are to a named partition: how a dead letter goes back to its stage."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class GiveUp:
    """A handler's word that its input ends as a dead letter, beside whatever else it sends and writes."""

    error_class: str
    reason: str
    step: str | None = None
    field: str | None = None
    attempts: int = 1
    first_failed_at: int | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """A timer that a handler set is due. `payload` is what it gave."""

    name: str
    key: str
    payload: bytes
    due_at: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Work that a handler started outside of the transaction has ended. `result` is whatever the worker returned."""

    key: str
    result: Any = field(hash=False)
