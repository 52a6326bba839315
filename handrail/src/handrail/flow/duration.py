"""Lengths of time as people write them: `300ms`, `2s`, `10m`, `4h`, `90d`. In code they are whole milliseconds."""

from __future__ import annotations

import re

_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_SHAPE = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")


def parse_duration(text: object) -> int:
    """Milliseconds. Raises ValueError that says how a length of time is written."""
    match = _SHAPE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"{text!r} is not a length of time; write a number and its unit, such as 300ms, 2s, 10m, 4h, 90d"
        )
    return int(match[1]) * _UNITS[match[2]]


def format_duration(ms: int) -> str:
    """The shortest way to write it: the largest unit that divides it."""
    unit, size = next((unit, size) for unit, size in _UNITS.items() if ms % size == 0 and (ms or size == 1))
    return f"{ms // size}{unit}"
