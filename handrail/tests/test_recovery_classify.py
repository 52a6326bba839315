"""From an exception to its class: who wins, what is kept, and how much of it."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest
from handrail.errors import (
    Aborted,
    ConfigError,
    ContractBroken,
    Failure,
    Fenced,
    FlowError,
    HandrailError,
    Poison,
    StateError,
    Unreachable,
)
from handrail.recovery import ErrorClass, classify
from handrail.recovery.classify import MESSAGE_BYTES, STACK_BYTES
from handrail.recovery.text import head, tail
from hypothesis import given
from hypothesis import strategies as st


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Refused(ConnectionRefusedError):
    """More specific than what we map."""


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        if cause is None:
            raise error
        raise error from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Poison("bad"), ErrorClass.POISON),
        (ContractBroken("bad", field="a"), ErrorClass.CONTRACT),
        (Failure("rate_limited", "wait"), ErrorClass.RATE_LIMITED),
        (Failure("no such class", "x"), ErrorClass.BUG),
        (ConfigError("x"), ErrorClass.CONFIG),
        (FlowError([]), ErrorClass.CONFIG),
        (StateError("read-only"), ErrorClass.CRITICAL),
        (Unreachable("x"), ErrorClass.TRANSIENT),
        (Aborted("x"), ErrorClass.INFRA),
        (Fenced("x"), ErrorClass.INFRA),
        (HandrailError("x"), ErrorClass.BUG),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), ErrorClass.TRANSIENT),
        (Refused("x"), ErrorClass.TRANSIENT),
        (socket.gaierror(-2, "x"), ErrorClass.TRANSIENT),
        (ConnectionResetError("x"), ErrorClass.UNKNOWN_OUTCOME),
        (BrokenPipeError("x"), ErrorClass.UNKNOWN_OUTCOME),
        (TimeoutError("x"), ErrorClass.UNKNOWN_OUTCOME),
        (MemoryError(), ErrorClass.CRITICAL),
        (OSError(errno.ENOSPC, "full"), ErrorClass.CRITICAL),
        (OSError(errno.EDQUOT, "full"), ErrorClass.CRITICAL),
        (OSError(errno.ENOENT, "absent"), ErrorClass.BUG),
        (KeyError("total"), ErrorClass.BUG),
        (RecursionError("deep"), ErrorClass.BUG),
        (asyncio.CancelledError(), ErrorClass.INFRA),
        (KeyboardInterrupt(), ErrorClass.INFRA),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_each_exception_has_its_class(error: BaseException, expected: ErrorClass) -> None:
    assert classify(raised(error)).error_class is expected


def test_the_outermost_known_exception_wins() -> None:
    assert classify(raised(ContractBroken("x"), ConnectionRefusedError())).error_class is ErrorClass.CONTRACT


def test_a_cause_is_asked_where_the_error_is_unknown() -> None:
    info = classify(raised(RuntimeError("loading"), raised(ValueError("mid"), Poison("bad magic"))))
    assert info.error_class is ErrorClass.POISON
    assert info.exception_type == "RuntimeError"
    assert info.message == "loading (because: bad magic)"


def test_a_context_is_asked_unless_it_is_suppressed() -> None:
    def fail(suppress: bool) -> BaseException:
        try:
            try:
                raise ConnectionRefusedError
            except ConnectionRefusedError:
                if suppress:
                    raise RuntimeError("x") from None
                raise RuntimeError("x")  # noqa: B904 - the context is what is tested
        except RuntimeError as error:
            return error

    assert classify(fail(suppress=False)).error_class is ErrorClass.TRANSIENT
    assert classify(fail(suppress=True)).error_class is ErrorClass.BUG


def test_out_of_memory_is_critical_wherever_it_stands() -> None:
    assert classify(raised(ContractBroken("x"), MemoryError())).error_class is ErrorClass.CRITICAL
    assert classify(ExceptionGroup("two", [Poison("x"), OSError(errno.ENOSPC, "x")])).error_class is ErrorClass.CRITICAL


def test_the_members_of_a_group_are_asked() -> None:
    assert classify(ExceptionGroup("two", [KeyError("x"), Unreachable("y")])).error_class is ErrorClass.TRANSIENT


def test_a_loop_of_causes_ends() -> None:
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    assert classify(one).error_class is ErrorClass.BUG


def test_a_mapping_of_the_callers_goes_before_ours_and_the_most_specific_wins() -> None:
    extra = {OSError: ErrorClass.CONFIG, ConnectionError: ErrorClass.OUTAGE}
    assert classify(ConnectionResetError(), extra).error_class is ErrorClass.OUTAGE
    assert classify(ConnectionRefusedError(), extra).error_class is ErrorClass.TRANSIENT
    assert classify(PermissionError(), extra).error_class is ErrorClass.CONFIG


def test_field_and_retry_after_come_from_the_failure_that_decided() -> None:
    assert classify(raised(RuntimeError("x"), ContractBroken("y", field="total"))).field == "total"
    assert classify(Failure("rate_limited", "wait", retry_after_ms=7)).retry_after_ms == 7
    assert classify(KeyError("x")).field is None


def test_an_exception_without_a_readable_text_is_still_told() -> None:
    assert classify(raised(Odd())).message == "Odd (its message can't be shown)"
    assert classify(KeyboardInterrupt()).message == "KeyboardInterrupt"


def test_text_that_is_no_utf8_is_escaped() -> None:
    info = classify(raised(ValueError("half \ud800")))
    assert info.message == "half \\ud800"
    info.stack.encode()  # type: ignore[union-attr]


def test_the_frame_is_ours_and_has_no_line_number() -> None:
    def mapping(event: dict[str, int]) -> int:
        return int("x") + event["total"]

    try:
        mapping({})
    except ValueError as error:
        frame = classify(error).frame
    assert frame is not None
    assert frame.endswith("mapping")
    assert not any(part.isdigit() for part in frame.split(":"))


def test_the_frame_is_the_innermost_of_ours_not_of_the_standard_library() -> None:
    import json

    try:
        json.loads("{")
    except ValueError as error:
        frame = classify(error).frame
    assert frame is not None
    assert "json" not in frame.partition(":")[0]


def test_a_long_message_does_not_push_the_frames_out_of_the_stack() -> None:
    stack = classify(raised(ValueError("x" * 100_000))).stack or ""
    assert "in raised" in stack


def test_a_deep_recursion_keeps_its_end() -> None:
    def deep(n: int) -> int:
        return 1 // n if n == 0 else deep(n - 1)

    try:
        deep(800)
    except ZeroDivisionError as error:
        stack = classify(error).stack or ""
    assert len(stack.encode()) <= STACK_BYTES
    assert stack.rstrip().endswith("ZeroDivisionError: integer division or modulo by zero")


@given(st.text(alphabet=st.characters(), max_size=4000), st.text(max_size=10))
def test_message_and_stack_are_bounded_for_any_text(outer: str, inner: str) -> None:
    info = classify(raised(RuntimeError(outer), Poison(inner)))
    assert len(info.message.encode()) <= MESSAGE_BYTES
    assert info.stack is not None
    assert len(info.stack.encode()) <= STACK_BYTES


@given(st.text(alphabet="aé€𝄞\ud800"), st.integers(3, 60))
def test_cut_text_fits_and_keeps_whole_characters(text: str, limit: int) -> None:
    safe = text.encode(errors="backslashreplace").decode()
    for cut in (head(text, limit), tail(text, limit)):
        assert len(cut.encode()) <= limit
        assert (cut == safe) == (len(safe.encode()) <= limit)
    assert safe.startswith(head(text, limit).removesuffix("…"))
    assert safe.endswith(tail(text, limit).removeprefix("…"))
