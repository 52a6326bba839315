"""What belongs together has one fingerprint, what does not has another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from handrail.recovery import ErrorClass, FailureInfo, fingerprint
from handrail.recovery.fingerprint import mask
from hypothesis import given
from hypothesis import strategies as st

INFO = FailureInfo(
    ErrorClass.BUSINESS, exception_type="Refused", message="order 7 of 'Ann' is refused", frame="mapping:total"
)


@pytest.mark.parametrize(
    ("message", "masked"),
    [
        ("order 17 of 'Ann': limit 2.50 EUR", "order # of '…': limit # EUR"),
        ('no field "x"', "no field '…'"),
        ("it can't be and won't", "it can't be and won't"),
        ("run 0196f3a2-1b2c-8d3e-9f10-aabbccddeeff failed", "run # failed"),
        ("at 2024-01-02T03:04:05Z", "at #"),
        ("from 10.0.0.1:8080", "from #"),
        ("", ""),
    ],
)
def test_what_differs_from_case_to_case_is_masked(message: str, masked: str) -> None:
    assert mask(message) == masked


@pytest.mark.parametrize(
    "other",
    [
        replace(INFO, error_class=ErrorClass.BUG),
        replace(INFO, exception_type="Denied"),
        replace(INFO, frame="mapping:other"),
        replace(INFO, frame=None),
        replace(INFO, message="order 7 of 'Ann' is too large"),
    ],
)
def test_another_kind_has_another_fingerprint(other: FailureInfo) -> None:
    assert fingerprint("f.transform", INFO) != fingerprint("f.transform", other)


def test_stage_and_system_count_and_are_not_mixed_up() -> None:
    found = {fingerprint("a", INFO), fingerprint("b", INFO), fingerprint("a", INFO, "b"), fingerprint("a", INFO, "c")}
    assert len(found) == 4


def test_it_is_the_same_in_every_process() -> None:
    assert fingerprint("order-to-invoice.transform", INFO, "billing") == "191b4c5237c37a16"


@given(st.integers(0), st.text(alphabet=st.characters(blacklist_characters="'", blacklist_categories=["Cs"])))
def test_numbers_quoted_text_stack_and_field_do_not_count(number: int, name: str) -> None:
    other = replace(INFO, message=f"order {number} of '{name}' is refused", stack="…", field="total")
    assert fingerprint("s", other) == fingerprint("s", INFO)


@given(st.text(max_size=3000))
def test_any_message_has_a_fingerprint(message: str) -> None:
    assert len(fingerprint("s", replace(INFO, message=message))) == 16
