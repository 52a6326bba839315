"""Small words for people: times, spans, ids, and text from outside that is safe to show. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise

SHORT = 8


def clock(at: int) -> str:
    """`10:02:03`, UTC."""
    return _utc(at).strftime("%H:%M:%S")


def moment(at: int) -> str:
    """`2026-01-31 10:02:03 UTC`."""
    return _utc(at).strftime("%Y-%m-%d %H:%M:%S UTC")


def span(ms: int) -> str:
    """`850 ms`, `2.1 s`, `4 min`, `3 h`, `2 days`."""
    ms = max(ms, 0)
    if ms < 1_000:
        return f"{ms} ms"
    if ms < 120_000:
        return f"{ms / 1000:.1f} s"
    minutes = ms // 60_000
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h" if hours < 48 else f"{hours // 24} days"


def within(ms: int | None) -> str:
    """A span, or that not so many are over yet (None)."""
    return "not yet" if ms is None else span(ms)


def count(n: int, one: str, many: str = "") -> str:
    """`1 attempt`, `3 attempts`."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def percent(part: float) -> str:
    """Rounded down, so that 100 % is all of them."""
    return f"{int(part * 1000) / 10:g} %"


def amount(value: float) -> str:
    """`1,234`, `0.50`."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.2f}"


def shown(text: object) -> str:
    """Text that came from outside, without signs that a terminal would obey."""
    return "".join(sign if sign.isprintable() or sign == "\n" else f"\\x{ord(sign):02x}" for sign in str(text))


def line(text: object, width: int = 100) -> str:
    """The same on one line, cut with a mark."""
    flat = " ".join(shown(text).split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    text = text.strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?…" else ".")


def short_length(ids: Iterable[str]) -> int:
    """How many signs tell these ids apart: 8 or more."""
    known = sorted(set(ids))
    length = SHORT
    for before, after in pairwise(known):
        shared = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
        length = max(length, shared + 1)
    return length


def _utc(at: int) -> datetime:
    try:
        return datetime.fromtimestamp(at / 1000, UTC)
    except (OverflowError, OSError, ValueError):  # a clock that was never set; it must not hide the rest
        return datetime.fromtimestamp(0, UTC)
