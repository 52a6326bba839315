"""W3C trace contexts as text (`00-<trace>-<span>-<flags>`): reading, deriving, marking. Pure; no telemetry code."""

from __future__ import annotations

import re
from hashlib import blake2b

TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
SAMPLED = 1


def valid_traceparent(text: str | None) -> str | None:
    """The text if it is a W3C traceparent of version 00, else None."""
    return text if text is not None and TRACEPARENT.fullmatch(text) else None


def trace_id(traceparent: str | None) -> str | None:
    """The 32 hex digits of the trace, or None when there is no valid context."""
    match = TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return match[1] if match else None


def kept(traceparent: str | None) -> str | None:
    """The same context with the sampled flag on: from here on every span of the trace is recorded."""
    match = TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return f"00-{match[1]}-{match[2]}-{int(match[3], 16) | SAMPLED:02x}" if match else None


def derived_traceparent(run: str) -> str:
    """The context of a run that came without one: it comes of the run's id alone, so every copy has the same."""
    return f"00-{trace_of(run):032x}-{_span_of(run)}-01"


def trace_of(run: str) -> int:
    """A trace id of the run's id. It is hashed, and not the UUID itself: samplers decide by the lower 64 bits, which in a
    UUID begin with its variant; with those a ratio would keep nearly all runs, or none.
    """
    return int.from_bytes(blake2b(run.encode(), digest_size=16, person=b"handrail.trace").digest(), "big") or 1


def _span_of(run: str) -> str:
    digest = blake2b(run.encode(), digest_size=8, person=b"handrail.span").hexdigest()
    return digest if digest.strip("0") else "0" * 15 + "1"
