"""Small words for people."""

from __future__ import annotations

import pytest
from handrail_console.words import clock, count, line, moment, sentence, short_length, shown, span
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (-5, "0 ms"),
        (999, "999 ms"),
        (2_100, "2.1 s"),
        (119_000, "119.0 s"),
        (120_000, "2 min"),
        (7_200_000, "2 h"),
        (172_800_000, "2 days"),
    ],
)
def test_a_span_has_one_unit(ms: int, said: str) -> None:
    assert span(ms) == said


def test_times_are_utc_and_a_clock_that_was_never_set_hides_nothing() -> None:
    assert clock(1_767_261_723_999) == "10:02:03"
    assert moment(0) == "1970-01-01 00:00:00 UTC"
    assert moment(2**63 - 1) == moment(-(2**63)) == "1970-01-01 00:00:00 UTC"


def test_counts_and_sentences() -> None:
    assert [count(1, "attempt"), count(2, "attempt"), count(2, "story", "stories")] == [
        "1 attempt",
        "2 attempts",
        "2 stories",
    ]
    assert [sentence(text) for text in ("", "done", "Why?", " éa ")] == ["", "Done.", "Why?", "Éa."]


def test_a_line_is_one_line_and_bounded() -> None:
    assert line("a\n b\tc") == "a b\\x09c"
    assert line("x" * 300, 10) == "x" * 9 + "…"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_shown(text: str) -> None:
    assert all(sign.isprintable() or sign == "\n" for sign in shown(text))


@given(st.lists(st.uuids().map(str), max_size=20))
def test_short_ids_still_tell_apart(ids: list[str]) -> None:
    length = short_length(ids)
    assert length >= 8
    assert len({each[:length] for each in ids}) == len(set(ids))
