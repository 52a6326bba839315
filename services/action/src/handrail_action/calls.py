"""A call of an outside system and what came back, as values between the handler and the worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["call", "verify"]
Trouble = Literal["not-sent", "too-late", "lost"]


@dataclass(frozen=True, slots=True)
class Job:
    """One HTTP request to make. `attempt` and `check` say which of an effect's calls and verifications it is.

    Nobody sends after `send_by` (ms since the epoch). Durations are in ms.
    """

    kind: Kind
    attempt: int
    check: int
    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None
    send_by: int
    connect_ms: int
    total_ms: int
    traceparent: str | None
    run: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Either a status with its body, or `trouble`: "not-sent" when the request can't have arrived, "too-late" when nobody
    came round to it before its `send_by`, "lost" when nobody can say. `retry_after` is the header as it came.
    `traceparent` is the context of the call's span.
    """

    kind: Kind
    attempt: int
    check: int
    status: int | None = None
    body: bytes = b""
    trouble: Trouble | None = None
    detail: str = ""
    retry_after: str | None = None
    traceparent: str | None = None
