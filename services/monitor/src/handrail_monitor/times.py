"""Lengths of time in words, and hours of the day. Pure; times in ms since the epoch, UTC."""

from __future__ import annotations

DAY_MS = 86_400_000
_UNITS = ((DAY_MS, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def span(ms: int) -> str:
    """`45 s`, `3 min`, `2 h 5 min`, `4 d 3 h`: the two largest units."""
    ms = max(0, ms)
    for place, (size, unit) in enumerate(_UNITS):
        if ms >= size:
            rest = ""
            if place + 1 < len(_UNITS):
                smaller, name = _UNITS[place + 1]
                rest = f" {ms % size // smaller} {name}" if ms % size // smaller else ""
            return f"{ms // size} {unit}{rest}"
    return "0 s"


def within_hours(hours: str | None, start: int, end: int) -> bool:
    """Whether the whole time from start to end lies within `08:00-20:00` of one day, or over midnight with `20:00-04:00`."""
    if hours is None:
        return True
    opens, closes = (_minute(one) * 60_000 for one in hours.split("-"))
    length = (closes - opens) % DAY_MS or DAY_MS
    return (start - opens) % DAY_MS + (end - start) <= length


def _minute(clock: str) -> int:
    hour, _, minute = clock.partition(":")
    return int(hour) * 60 + int(minute)
