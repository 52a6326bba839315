"""What became of orders: watched in the ledger, because only an outcome counts, never a message sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
POLL_S = 0.2
_LETTER_GOAL = {"replay": "RESOLVED", "discard": "DISCARDED"}
_TASK_GOAL = {"approve": "approved", "reject": "rejected", "done": "done"}
_NO_ANSWER = "no answer from recovery yet; `handrail status` tells whether it runs"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one order stands. `final`: nothing more is to be expected; `good`: it is what was ordered."""

    id: str
    state: str
    text: str
    final: bool = False
    good: bool = False


Look = Callable[[], Outcome]


def letter_outcome(command: str, before: Row, now: Row | None) -> Outcome:
    """Compare a letter with what it was when the order was given."""
    letter, goal = before["letter"], _LETTER_GOAL[command]
    if now is None:
        return Outcome(letter, "GONE", "the letter is closed and no longer kept", final=True, good=True)
    state, failed_again = now["state"], now["generation"] > before["generation"]
    if state == goal:
        return Outcome(letter, state, now["state_reason"] or "", final=True, good=True)
    if state == "OPEN" and failed_again:
        return Outcome(letter, state, f"failed again: {now['message']}", final=True)
    if state == "OPEN" and now["replays"] > before["replays"]:
        return Outcome(letter, state, now["state_reason"] or "open again", final=True)
    if state == "OPEN":
        return Outcome(letter, state, _NO_ANSWER)
    if state == "REPLAYING":
        return Outcome(letter, state, "still being replayed")
    return Outcome(letter, state, now["state_reason"] or f"became {state}", final=True)


def task_outcome(verdict: str, before: Row, now: Row | None) -> Outcome:
    """Compare a task with what it was when it was decided."""
    if now is None:
        return Outcome(before["task"], "gone", "the task is closed and no longer kept", final=True, good=True)
    state = now["state"]
    if state == "open":
        return Outcome(before["task"], state, _NO_ANSWER)
    by = f"by {now['decided_by']}" if now["decided_by"] else ""
    return Outcome(before["task"], state, by, final=True, good=state == _TASK_GOAL[verdict])


def review_outcome(flow: str, by: str, noted: bool) -> Outcome:
    """`noted`: the audit has this very review."""
    if not noted:
        return Outcome(flow, "sent", _NO_ANSWER)
    return Outcome(flow, "noted", f"by {by}", final=True, good=True)


def watch(
    looks: Sequence[Look], seconds: float, monotonic: Callable[[], float], sleep: Callable[[float], None]
) -> list[Outcome]:
    """Look until every outcome is final or the time is over; in the order given."""
    deadline = monotonic() + seconds
    outcomes = [look() for look in looks]
    while not all(outcome.final for outcome in outcomes) and monotonic() < deadline:
        sleep(min(POLL_S, max(deadline - monotonic(), 0)))
        outcomes = [outcome if outcome.final else look() for look, outcome in zip(looks, outcomes, strict=True)]
    return outcomes
