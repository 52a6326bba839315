"""The decision as a table, and what holds for every failure."""

from __future__ import annotations

import pytest
from handrail.recovery import DeadLetter, Discard, ErrorClass, FailureInfo, Policy, Retry, decide
from handrail.recovery.policy import DAY, DEFAULTS, MINUTE, SECOND
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_700_000_000_000
POLICY = Policy()
RETRYABLE = [one for one in ErrorClass if one.retryable]
NEVER = [one for one in ErrorClass if not one.retryable and one is not ErrorClass.CRITICAL]

classes = st.sampled_from(RETRYABLE)
jitters = st.floats(0, 1, exclude_max=True)
attempts = st.integers(-2, 10_000)
ages = st.integers(-DAY, 40 * DAY)
asked = st.none() | st.integers(0, 400 * DAY)


def failure(error_class: ErrorClass, retry_after_ms: int | None = None) -> FailureInfo:
    return FailureInfo(error_class, message="x", retry_after_ms=retry_after_ms)


@pytest.mark.parametrize(
    ("error_class", "attempt", "age", "retry_after_ms", "expected"),
    [
        ("transient", 1, 0, None, Retry(NOW + 2 * SECOND, True)),
        ("transient", 2, 0, None, Retry(NOW + 4 * SECOND, True)),
        ("transient", 8, 0, None, Retry(NOW + 256 * SECOND, True)),
        ("transient", 1, 0, 30_000, Retry(NOW + 30 * SECOND, True)),
        ("transient", 0, 0, None, Retry(NOW + 2 * SECOND, True)),
        ("rate_limited", 1, 0, 5_000, Retry(NOW + 5 * SECOND, False)),
        ("rate_limited", 500, 0, 5_000, Retry(NOW + 5 * SECOND, False)),
        ("rate_limited", 1, 0, 0, Retry(NOW + SECOND, False)),
        ("rate_limited", 1, 0, None, Retry(NOW + SECOND, False)),
        ("rate_limited", 1, 30_000, None, Retry(NOW + 30 * SECOND, False)),
        ("rate_limited", 1, 0, DAY, Retry(NOW + DAY, False)),
        ("bug", 1, 0, None, Retry(NOW + 2 * SECOND, True)),
        ("bug", 2, 0, None, Retry(NOW + 4 * SECOND, True)),
        ("outage", 900, 39 * DAY, None, Retry(NOW + MINUTE, False)),
        ("infra", 900, 39 * DAY, None, Retry(NOW + 10 * SECOND, False)),
        ("transient", 9, 0, None, "still failing after 9 attempts"),
        ("transient", 2, DAY, None, "24 h after the first failure"),
        ("bug", 3, 0, None, "still failing after 3 attempts"),
        ("rate_limited", 1, 0, DAY + 1, "goes to a person"),
        ("rate_limited", 1, 2 * DAY, None, "2 days after the first failure"),
        ("business", 1, 0, None, "a rule says no"),
        ("unknown_outcome", 1, 0, None, "verify first"),
        ("business", 1, 0, 1_000, "a rule says no"),
    ],
)
def test_the_table(error_class: str, attempt: int, age: int, retry_after_ms: int | None, expected: Retry | str) -> None:
    got = decide(POLICY, failure(ErrorClass(error_class), retry_after_ms), attempt, NOW - age, NOW, 0.0)
    if isinstance(expected, Retry):
        assert got == expected
    else:
        assert isinstance(got, DeadLetter)
        assert got.reason.startswith(f"{error_class}: ")
        assert expected in got.reason


def test_a_critical_failure_is_never_decided_about() -> None:
    with pytest.raises(ValueError, match="the process stops"):
        decide(POLICY, failure(ErrorClass.CRITICAL), 1, NOW, NOW, 0.0)


def test_what_is_used_up_is_discarded_where_the_flow_says_so() -> None:
    policy = Policy.from_config({"transient": {"times": 1, "then": "discard"}, "business": {"then": "discard"}})
    assert isinstance(decide(policy, failure(ErrorClass.TRANSIENT), 1, NOW, NOW, 0.0), Retry)
    assert isinstance(decide(policy, failure(ErrorClass.TRANSIENT), 2, NOW, NOW, 0.0), Discard)
    assert isinstance(decide(policy, failure(ErrorClass.BUSINESS), 1, NOW, NOW, 0.0), Discard)


def test_the_clock_going_back_is_no_age() -> None:
    assert decide(POLICY, failure(ErrorClass.TRANSIENT), 1, NOW + DAY, NOW, 0.0) == Retry(NOW + 2 * SECOND, True)


@given(st.sampled_from(NEVER), attempts, ages, asked, jitters)
def test_what_a_machine_can_not_mend_is_never_retried(
    error_class: ErrorClass, attempt: int, age: int, wait: int | None, jitter: float
) -> None:
    assert isinstance(decide(POLICY, failure(error_class, wait), attempt, NOW - age, NOW, jitter), DeadLetter)


@given(classes, attempts, ages, asked, jitters)
def test_a_retry_is_never_early_and_never_later_than_its_bound(
    error_class: ErrorClass, attempt: int, age: int, wait: int | None, jitter: float
) -> None:
    got = decide(POLICY, failure(error_class, wait), attempt, NOW - age, NOW, jitter)
    if isinstance(got, Retry):
        backoff = DEFAULTS[error_class]
        assert got.due_at >= NOW + max(wait or 0, backoff.first_ms)
        assert got.due_at <= NOW + 1.2 * max(wait or 0, backoff.cap_ms)
        assert got.counted == error_class.counted
    else:
        assert isinstance(got, DeadLetter)
        assert got.reason


@given(classes, st.integers(1, 50), ages, jitters)
def test_jitter_only_adds_and_at_most_a_fifth(error_class: ErrorClass, attempt: int, age: int, jitter: float) -> None:
    plain = decide(POLICY, failure(error_class), attempt, NOW - age, NOW, 0.0)
    moved = decide(POLICY, failure(error_class), attempt, NOW - age, NOW, jitter)
    assert type(plain) is type(moved)
    if isinstance(plain, Retry) and isinstance(moved, Retry):
        wait = plain.due_at - NOW
        assert wait <= moved.due_at - NOW <= 1.2 * wait


@given(classes, st.integers(1, 50), ages)
def test_a_later_attempt_waits_no_less_and_what_is_used_up_stays_so(
    error_class: ErrorClass, attempt: int, age: int
) -> None:
    earlier = decide(POLICY, failure(error_class), attempt, NOW - age, NOW, 0.0)
    later = decide(POLICY, failure(error_class), attempt + 1, NOW - age, NOW, 0.0)
    if isinstance(earlier, Retry):
        assert isinstance(later, DeadLetter) or later.due_at >= earlier.due_at  # type: ignore[union-attr]
    else:
        assert isinstance(later, DeadLetter)


@given(
    st.sampled_from([ErrorClass.TRANSIENT, ErrorClass.BUG]),
    st.integers(1, 20),
    st.integers(0, 60_000),
    st.integers(0, 60_000),
    jitters,
)
def test_attempts_are_bounded(error_class: ErrorClass, times: int, first: int, more: int, jitter: float) -> None:
    policy = Policy.from_config({error_class.value: {"times": times, "from": first, "to": first + more}})
    now, attempt = NOW, 1
    while isinstance(got := decide(policy, failure(error_class), attempt, NOW, now, jitter), Retry):
        assert now <= got.due_at
        now, attempt = got.due_at, attempt + 1
    assert attempt == times + 1


@given(st.sampled_from([ErrorClass.RATE_LIMITED]), asked, jitters)
def test_what_is_not_counted_ends_by_its_age(error_class: ErrorClass, wait: int | None, jitter: float) -> None:
    now, rounds = NOW, 0
    policy = Policy.from_config({"rate_limited": {"from": 60_000, "to": 600_000}})
    while isinstance(got := decide(policy, failure(error_class, wait), 1, NOW, now, jitter), Retry):
        now, rounds = got.due_at, rounds + 1
        assert rounds < 2_000
    assert now - NOW >= DAY or (wait or 0) > DAY
