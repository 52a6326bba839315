"""Retry-After, as the world sends it."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from handrail.recovery import retry_after
from handrail.recovery.retry_after import LONGEST_MS
from hypothesis import example, given
from hypothesis import strategies as st

NOW = 1_700_000_000_000  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("5", 5_000),
        (" 5\t", 5_000),
        ("007", 7_000),
        ("86400", 86_400_000),
        ("9" * 5_000, LONGEST_MS),
        ("0" * 5_000 + "1", 1_000),
        ("Tue, 14 Nov 2023 22:13:25 GMT", 5_000),
        ("Tuesday, 14-Nov-23 22:13:25 GMT", 5_000),
        ("Tue Nov 14 22:13:25 2023", 5_000),
        ("Tue, 14 Nov 2023 23:13:25 +0100", 5_000),
        ("Tue, 14 Nov 2023 22:13:25 -0000", 5_000),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_MS),
        ("Fri, 32 Dec 2023 23:59:59 GMT", None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        (None, None),
        ("", None),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("1e9", None),
        ("5s", None),
        ("5\n", None),
        ("٥", None),
        ("²", None),
        ("５", None),
        ("soon", None),
        ("Tue, " + "9" * 10_000, None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_the_table(text: str | None, expected: int | None) -> None:
    assert retry_after(text, NOW) == expected


@given(st.integers(0, 10**30))
def test_seconds_are_milliseconds_up_to_a_year(seconds: int) -> None:
    assert retry_after(str(seconds), NOW) == min(seconds * 1000, LONGEST_MS)


@given(st.integers(0, 4_000_000_000))
def test_a_date_is_what_is_left_until_then(at: int) -> None:
    assert retry_after(formatdate(at, usegmt=True), NOW) == min(max(at * 1000 - NOW, 0), LONGEST_MS)


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2},? [ -~]{10,40}", fullmatch=True))
@example("Mon, 00 Jan 0000 00:00:00 GMT")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("Mon, 01 Jan 2024 00:00:00 +999999999999")
def test_whatever_comes_it_is_nothing_or_a_sane_wait(text: str) -> None:
    got = retry_after(text, NOW)
    assert got is None or 0 <= got <= LONGEST_MS
