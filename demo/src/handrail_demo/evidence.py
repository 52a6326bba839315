"""From the records of the topics runs, dead-letters and recovery.states to what the accounting takes; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from handrail.identity import run_id

from handrail_demo.accounting import LetterSeen, RunSeen

FLOW = "order-to-invoice"


def newest_runs(transitions: Iterable[Mapping[str, Any]], flow: str = FLOW) -> list[RunSeen]:
    """Each run of the flow by its transition with the highest sequence (handrail/run-transition.v3)."""
    newest: dict[str, Mapping[str, Any]] = {}
    for transition in transitions:
        if transition["flow"] != flow:
            continue
        known = newest.get(transition["run"])
        if known is None or transition["sequence"] >= known["sequence"]:
            newest[transition["run"]] = transition
    return [RunSeen(run, _identity(each["dedupe"]), each["state"]) for run, each in newest.items()]


def newest_letters(
    letters: Iterable[tuple[bytes | None, Mapping[str, Any] | None]], states: Iterable[Mapping[str, Any]]
) -> list[LetterSeen]:
    """Each dead letter with its newest state, in log order.

    `letters` are (key, handrail/dead-letter.v1 or None for a tombstone), `states` handrail/letter-state.v1. A state of an
    earlier generation is over: the message failed again, and the letter is open.
    """
    newest: dict[bytes | None, Mapping[str, Any]] = {}
    for key, letter in letters:
        if letter is None:
            newest.pop(key, None)
        else:
            newest[key] = letter
    stood: dict[str, Mapping[str, Any]] = {}
    for state in states:
        known = stood.get(state["letter"])
        if known is None or state["generation"] >= known["generation"]:
            stood[state["letter"]] = state
    return [_letter(letter, stood.get(letter["letter"])) for letter in newest.values()]


def expected_runs(identities: Iterable[str], flow: str = FLOW) -> dict[str, str]:
    """The run that each identity has or would have: letters of runs without a transition are named by it."""
    runs = {}
    for identity in identities:
        order_id, slash, revision = identity.rpartition("/")
        if slash and not identity.startswith("@"):
            runs[run_id(flow, {"order_id": order_id, "revision": revision})] = identity
    return runs


def _letter(letter: Mapping[str, Any], state: Mapping[str, Any] | None) -> LetterSeen:
    current = state is not None and state["generation"] >= letter["generation"]
    return LetterSeen(
        letter=letter["letter"],
        state=str(state["state"]) if state is not None and current else "OPEN",
        coordinates=f"{letter['topic']}/{letter['partition']}/{letter['offset']}",
        # Undecoded at transform it names no run, but its event has the run's id.
        run=letter["run"] or letter.get("event_id"),
    )


def _identity(dedupe: Mapping[str, str]) -> str | None:
    if "order_id" not in dedupe or "revision" not in dedupe:
        return None
    return f"{dedupe['order_id']}/{dedupe['revision']}"
