"""Logs as JSON lines on standard output. Never the contents of messages: they may be personal data."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType

import structlog

from handrail.traceparent import trace_id

REPEATED_S = 60.0
"""A library that says the same again and again, of a collector that is away say, is heard once in this time."""


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
    hear_libraries()


def hear_libraries() -> logging.Handler:
    """Warnings of libraries, which use the standard library's logging, as JSON lines like ours; with the logger's name.

    Handlers of others (pytest's) stay as they are. Called again, it replaces the handler of before, and returns the new.
    """
    root = logging.getLogger()
    for one in [one for one in root.handlers if isinstance(one, _Lines)]:
        root.removeHandler(one)
    handler = _Lines(logging.WARNING)
    handler.addFilter(Seldom())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *said()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root.addHandler(handler)
    return handler


class _Lines(logging.Handler):
    """Each record as one line, in one write: other threads write there, too. To what is standard output at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stdout.write(self.format(record) + "\n")
            sys.stdout.flush()
        except Exception:  # as every handler of the standard library has it: logging must not break what logs
            self.handleError(record)


class Seldom:
    """A filter: what one line of code has logged passes once in `REPEATED_S`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        where, now = (record.pathname, record.lineno), self._clock()
        if now < self._next.get(where, now):
            return False
        self._next[where] = now + REPEATED_S
        return True
