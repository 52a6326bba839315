"""From an exception to a class of failure. Pure: it reads the exception and nothing else."""

from __future__ import annotations

import asyncio
import errno
import socket
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from types import FrameType

from handrail.errors import ConfigError, Failure, LogError, StateError, Unreachable
from handrail.recovery.classes import ErrorClass, FailureInfo
from handrail.recovery.text import head, tail

MESSAGE_BYTES = 2 * 1024
STACK_BYTES = 16 * 1024
_FRAMES = 50
_CHAIN = 20

_CRITICAL_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM})
_CLASSES: Mapping[type[BaseException], ErrorClass] = {
    MemoryError: ErrorClass.CRITICAL,
    # A folder that can't be written says nothing about the message: stop before anything moves.
    StateError: ErrorClass.CRITICAL,
    ConfigError: ErrorClass.CONFIG,
    Unreachable: ErrorClass.TRANSIENT,
    LogError: ErrorClass.INFRA,
    ConnectionRefusedError: ErrorClass.TRANSIENT,
    socket.gaierror: ErrorClass.TRANSIENT,
    # Of these nobody can say whether the other side had read the request.
    ConnectionError: ErrorClass.UNKNOWN_OUTCOME,
    TimeoutError: ErrorClass.UNKNOWN_OUTCOME,
    # The process is being stopped; that says nothing about the message.
    asyncio.CancelledError: ErrorClass.INFRA,
    KeyboardInterrupt: ErrorClass.INFRA,
    SystemExit: ErrorClass.INFRA,
}
_FOREIGN = tuple(
    dict.fromkeys(PurePath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
)


def classify(error: BaseException, extra: Mapping[type[BaseException], ErrorClass] | None = None) -> FailureInfo:
    """Say what kind of failure `error` is.

    The outermost exception that is known wins, and of its classes the most specific in the MRO; where it is not known
    its causes and contexts are asked. Out of memory and disk full are `critical` wherever in the chain they stand. What
    nobody has mapped is a `bug`. `extra` maps more exceptions (of an HTTP client, say) and goes before ours.
    """
    chain = list(_chain(error))
    table = {**_CLASSES, **(extra or {})}
    decided = _decide(chain, table)
    error_class, source = decided if decided else (ErrorClass.BUG, error)
    failure = source if isinstance(source, Failure) else None
    return FailureInfo(
        error_class=error_class,
        exception_type=_type_name(error),
        message=head(_story(error, source), MESSAGE_BYTES),
        stack=tail(_stack(chain), STACK_BYTES),
        field=failure.field if failure else None,
        retry_after_ms=failure.retry_after_ms if failure else None,
        frame=_frame(chain),
    )


def frames(error: BaseException) -> str:
    """Where it was raised, for a log: without the exceptions' messages, which may hold personal data."""
    return tail(_stack(list(_chain(error)), messages=False), STACK_BYTES)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, the members of groups, its causes and contexts: outermost first, each once, at most 20."""
    seen: set[int] = set()
    waiting = [error]
    while waiting and len(seen) < _CHAIN:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting.extend(one.exceptions)
        if one.__cause__ is not None:
            waiting.append(one.__cause__)
        elif one.__context__ is not None and not one.__suppress_context__:
            waiting.append(one.__context__)


def _decide(
    chain: list[BaseException], table: Mapping[type[BaseException], ErrorClass]
) -> tuple[ErrorClass, BaseException] | None:
    found = [(error_class, one) for one in chain if (error_class := _class_of(one, table)) is not None]
    critical = [pair for pair in found if pair[0] is ErrorClass.CRITICAL]
    return next(iter(critical or found), None)


def _class_of(error: BaseException, table: Mapping[type[BaseException], ErrorClass]) -> ErrorClass | None:
    if isinstance(error, OSError) and error.errno in _CRITICAL_ERRNO:
        return ErrorClass.CRITICAL
    if isinstance(error, Failure):
        try:
            return ErrorClass(error.error_class)
        except ValueError:
            return ErrorClass.BUG
    return next((table[kind] for kind in type(error).__mro__ if kind in table), None)


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # an exception whose own text fails must not hide the failure
        return f"{type(error).__name__} (its message can't be shown)"


def _story(error: BaseException, source: BaseException) -> str:
    said = _message(error)
    return said if source is error else f"{head(said, MESSAGE_BYTES // 2)} (because: {_message(source)})"


def _stack(chain: list[BaseException], *, messages: bool = True) -> str:
    """Innermost cause first, as Python prints it; each message short, so that a long one can't push out the frames."""
    parts = []
    for one in reversed(chain):
        where = "".join(traceback.format_tb(one.__traceback__, limit=-_FRAMES))
        said = f": {head(_message(one), MESSAGE_BYTES // 4)}" if messages else ""
        parts.append(f"{where}{_type_name(one)}{said}\n")
    return "\n".join(parts)


def _frame(chain: list[BaseException]) -> str | None:
    """The innermost frame of our own code; the innermost cause comes first."""
    for one in reversed(chain):
        for frame in reversed([frame for frame, _ in traceback.walk_tb(one.__traceback__)]):
            if _ours(frame):
                return f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}"
    return None


def _ours(frame: FrameType) -> bool:
    """Our library and services wherever they are installed, and a project's mappings and connectors."""
    name = str(frame.f_globals.get("__name__", ""))
    if name.partition(".")[0].partition("_")[0] == "handrail":
        return True
    path = PurePath(frame.f_code.co_filename)
    return path.is_absolute() and not any(path.is_relative_to(folder) for folder in _FOREIGN)
