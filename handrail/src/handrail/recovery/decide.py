"""The one decision about a failure: again, to a person, or dropped with a reason. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from handrail.recovery.classes import ErrorClass, FailureInfo
from handrail.recovery.policy import LONGEST_RETRY_AFTER, Backoff, Policy

JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Retry:
    """Run it again at `due_at` (ms since the epoch), never before. `counted`: this attempt used up budget."""

    due_at: int
    counted: bool


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """No machine can finish it: `reason` tells a person why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Discard:
    """It is dropped on purpose, as its flow says, and counted."""

    reason: str


Decision = Retry | DeadLetter | Discard


def decide(
    policy: Policy, failure: FailureInfo, attempt: int, first_failed_at: int, now: int, jitter: float
) -> Decision:
    """Say what happens after a failure.

    `attempt` counts the attempts that were made and counted, with the one that has just failed (1 is the first).
    `first_failed_at` and `now` are ms since the epoch; `jitter` is in [0, 1) and spreads the wait over [d, 1.2 d].

    `unknown_outcome` always goes to a person here: who can verify does so first, and then decides on what was found
    (`dataclasses.replace(info, error_class=ErrorClass.TRANSIENT)` when it did not happen, or when the same idempotency
    key may be sent again).

    Raises ValueError for `critical`: the process must stop and nothing may move.
    """
    if failure.error_class is ErrorClass.CRITICAL:
        raise ValueError(f"a critical failure is not decided about, the process stops: {failure.message}")
    backoff = policy.backoff(failure.error_class)
    age = max(0, now - first_failed_at)
    used_up = _used_up(backoff, failure, max(attempt, 1), age)
    if used_up:
        return Discard(used_up) if backoff.discard else DeadLetter(used_up)
    wait = _wait(backoff, failure, attempt, age)
    return Retry(now + wait + int(wait * JITTER * jitter), counted=failure.error_class.counted)


def _used_up(backoff: Backoff, failure: FailureInfo, attempt: int, age: int) -> str | None:
    name = failure.error_class.value
    if backoff.times == 0:
        return f"{name}: {failure.error_class.meaning}"
    if failure.retry_after_ms is not None and failure.retry_after_ms > LONGEST_RETRY_AFTER:
        return f"{name}: the system asks to wait {_span(failure.retry_after_ms)}, so it goes to a person"
    if backoff.times is not None and attempt > backoff.times:
        return f"{name}: still failing after {attempt} attempts"
    if backoff.max_age_ms is not None and age >= backoff.max_age_ms:
        return f"{name}: still failing {_span(age)} after the first failure"
    return None


def _wait(backoff: Backoff, failure: FailureInfo, attempt: int, age: int) -> int:
    """Milliseconds before jitter. Attempts that are not counted do not grow, so there the age takes their place."""
    asked = failure.retry_after_ms
    if failure.error_class is ErrorClass.RATE_LIMITED and asked is not None:
        return max(asked, backoff.first_ms)  # an answer of "0 seconds" must not become a tight loop
    wait = backoff.delay(attempt)
    if backoff.times is None:
        wait = min(backoff.cap_ms, max(wait, age))
    return max(wait, asked or 0)


def _span(ms: int) -> str:
    hours, minutes = ms // 3_600_000, ms // 60_000
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours} h" if hours else f"{minutes} min" if minutes else f"{ms / 1000:g} s"
