"""The Retry-After header (RFC 9110, section 10.2.3): seconds, or a date. It comes from outside: expect anything."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST_MS = 366 * 24 * 3_600_000
_SECONDS = re.compile(r"[0-9]+\Z", re.ASCII)
_DATE = re.compile(r"[A-Z][a-z]{2,8},? [\x20-\x7e]{10,40}\Z", re.ASCII)


def retry_after(text: str | None, now: int) -> int | None:
    """Milliseconds to wait from `now` (ms since the epoch), at most a year; None for what can't be read.

    A date in the past is 0. A negative, a fraction and digits of other scripts are garbage: None.
    """
    value = (text or "").strip(" \t")
    if _SECONDS.match(value):
        digits = value.lstrip("0")[:12]  # more digits are over a year anyway
        return min(int(digits or "0") * 1000, LONGEST_MS)
    if not _DATE.match(value):
        return None
    try:
        when = parsedate_to_datetime(value)
        due = int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError, IndexError, OSError):
        return None
    return min(max(due - now, 0), LONGEST_MS)
