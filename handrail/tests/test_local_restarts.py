"""When a process that has ended is started again."""

import pytest
from handrail.local.restarts import CAP_S, CONFIG_ERROR_S, after_end, describe
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(("in_a_row", "wait"), [(0, 0.2), (1, 0.4), (2, 0.8), (3, 1.6), (4, 3.2), (5, 5.0), (50, 5.0)])
def test_crashes_after_each_other_wait_twice_as_long_each_time(in_a_row: int, wait: float) -> None:
    again = after_end(1, 0.5, in_a_row)
    assert again.after_s == pytest.approx(wait)
    assert again.in_a_row == in_a_row + 1


def test_ten_seconds_of_life_forgive_the_crashes_before() -> None:
    assert after_end(-9, 10.0, in_a_row=7).after_s == pytest.approx(0.2)
    assert after_end(-9, 9.9, in_a_row=7).after_s == pytest.approx(CAP_S)


def test_a_config_error_is_tried_again_slowly_and_is_no_crash() -> None:
    again = after_end(2, 0.1, in_a_row=3)
    assert again.config_error
    assert again.after_s == CONFIG_ERROR_S
    assert again.in_a_row == 3


def test_an_end_without_an_error_that_nobody_asked_for_is_started_again_too() -> None:
    again = after_end(0, 60.0, in_a_row=0)
    assert again.after_s == pytest.approx(0.2)
    assert not again.config_error


@pytest.mark.parametrize(("code", "words"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "killed by SIGKILL")])
def test_an_end_is_told_in_words(code: int, words: str) -> None:
    assert describe(code) == words


@given(st.integers(-64, 255), st.floats(0, 1e6), st.integers(0, 10_000))
def test_the_wait_is_never_none_and_never_long(code: int, lived: float, in_a_row: int) -> None:
    assert 0.2 <= after_end(code, lived, in_a_row).after_s <= CONFIG_ERROR_S
