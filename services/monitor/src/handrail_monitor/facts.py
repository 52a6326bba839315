"""What monitor hears, as values: only what the rules need, and nothing of any message. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handrail.process_stats import CONTRACT as PROCESS_STATS
from handrail.recovery.letter import CONTRACT as DEAD_LETTER

LETTER_STATE = "handrail/letter-state.v1"
SYSTEM_STATE = "handrail/system-state.v1"


@dataclass(frozen=True, slots=True)
class Told:
    """What a process said of one of its stages."""

    service: str
    instance: str
    started_at: int
    stage: str
    reasons: tuple[str, ...]
    counters: Mapping[str, int]
    gauges: Mapping[str, int]
    at: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, or a new state of one: `open` while no machine and no person has ended it."""

    letter: str
    generation: int
    stage: str
    flow: str | None
    failure_class: str
    open: bool
    at: int


@dataclass(frozen=True, slots=True)
class Breaker:
    """An outside system's breaker, since when."""

    system: str
    open: bool
    since: int


@dataclass(frozen=True, slots=True)
class Gone:
    """A dead letter that was removed from its topic."""

    letter: str


Fact = Told | Letter | Breaker | Gone


def fact_of(contract: str, body: Mapping[str, Any]) -> Fact | None:
    """A decoded record as a fact; None for what no rule needs."""
    if contract == PROCESS_STATS:
        return Told(
            body["service"],
            body["instance"],
            body["started_at"],
            body["stage"],
            tuple(body["reasons"]),
            body["counters"],
            body["gauges"],
            body["at"],
        )
    if contract == DEAD_LETTER:
        return _letter(body, is_open=True, at=body["failed_at"])
    if contract == LETTER_STATE:
        return _letter(body, is_open=body["state"] in ("OPEN", "REPLAYING"), at=body["at"])
    if contract == SYSTEM_STATE:
        return Breaker(body["system"], body["breaker"] != "CLOSED", body["since"])
    return None


def _letter(body: Mapping[str, Any], *, is_open: bool, at: int) -> Letter:
    return Letter(body["letter"], body["generation"], body["stage"], body["flow"], body["failure_class"], is_open, at)
