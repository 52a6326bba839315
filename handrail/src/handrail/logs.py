"""Logs as JSON lines on standard output. Never the contents of messages: they may be personal data."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar, Token
from types import TracebackType

import structlog

from handrail.traceparent import trace_id


class InHand:
    """While this is entered, every line that this thread (or task) logs says which message, run and trace it is about.

    A few slots and no copying: one is entered for every record.
    """

    __slots__ = ("_token", "event_id", "run", "traceparent")

    def __init__(self, event_id: str | None, run: str | None, traceparent: str | None) -> None:
        self.event_id, self.run, self.traceparent = event_id, run, traceparent

    def __enter__(self) -> None:
        self._token: Token[InHand | None] = _IN_HAND.set(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _IN_HAND.reset(self._token)


_IN_HAND: ContextVar[InHand | None] = ContextVar("handrail_in_hand", default=None)


def know_in_hand(event_id: str, run: str | None, traceparent: str | None) -> None:
    """Say it of what is in hand from here on: its place in the trace is known only some way in, once it is looked at."""
    one = _IN_HAND.get()
    if one is not None:
        one.event_id, one.run, one.traceparent = event_id, run, traceparent


def say_in_hand(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A processor of structlog: adds `event_id`, `run` and `trace` of what is in hand; what the line says itself wins."""
    one = _IN_HAND.get()
    if one is not None:
        told = {"event_id": one.event_id, "run": one.run, "trace": trace_id(one.traceparent)}
        for name, value in told.items():
            if value is not None:
                line.setdefault(name, value)
    return line


def said() -> list[structlog.typing.Processor]:
    """What every line says beside its own words."""
    return [
        structlog.contextvars.merge_contextvars,
        say_in_hand,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]


def configure(service: str, level: int = logging.INFO) -> None:
    """Set structlog up for a service's process."""
    structlog.configure(
        processors=[*said(), structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
