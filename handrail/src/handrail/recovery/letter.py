"""Dead letters as records of the contract handrail/dead-letter.v1. Pure."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from handrail.contracts import MAX_BYTES
from handrail.log import Record
from handrail.message import Headers, Message
from handrail.recovery.classes import FailureInfo
from handrail.recovery.fingerprint import fingerprint

CONTRACT = "handrail/dead-letter.v1"
LETTER_BYTES = MAX_BYTES + 256 * 1024
"""A letter holds the largest message and all that is told about it."""


def header_rows(headers: Headers) -> list[dict[str, Any]]:
    """Headers as the contracts store them."""
    return [{"name": name, "value": value} for name, value in headers]


def headers_of(rows: list[dict[str, Any]]) -> Headers:
    """The way back from header_rows."""
    return tuple((row["name"], row["value"]) for row in rows)


def letter_body(
    *,
    letter: str,
    generation: int,
    stage: str,
    record: Record,
    info: FailureInfo,
    attempts: int,
    failed_at: int,
    first_failed_at: int,
    message: Message | None,
    event_id: str | None,
    step: str | None = None,
    trace: str | None = None,
) -> dict[str, Any]:
    """All that a person needs, by handrail/dead-letter.v1.

    `record` is the original, at its original coordinates; `trace` the id of the trace in which it failed.
    """
    run = message.run if message else None
    return {
        "letter": letter,
        "generation": generation,
        "stage": stage,
        "flow": run.flow if run else None,
        "version": run.version if run else None,
        "run": run.id if run else None,
        "route": message.key if message else None,
        "step": step,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": record.key,
        "value": record.value,
        "headers": header_rows(record.headers),
        "event_id": event_id,
        "contract": message.type if message else None,
        "failure_class": str(info.error_class),
        "field": info.field,
        "exception": info.exception_type,
        "message": info.message,
        "stack": info.stack,
        "fingerprint": fingerprint(stage, info),
        "attempts": attempts,
        "trace": trace,
        "payload_hash": blake2b(record.value or b"", digest_size=16).hexdigest(),
        "failed_at": failed_at,
        "first_failed_at": first_failed_at,
    }
