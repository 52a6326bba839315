"""Dead letters and their states: OPEN, REPLAYING, RESOLVED, DISCARDED. This stage is their only writer. Pure.

An order moves a letter by compare-and-set on (state, generation): a double click, or an order about what has changed since,
does nothing but be audited as refused. The outgoing record and the new state are one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from handrail.envelope import Replay
from handrail.message import Due, Finished, Message, Output, Relay
from handrail.outbox import LETTER_ORDER
from handrail.pending import View
from handrail.recovery.letter import CONTRACT as DEAD_LETTER
from handrail.recovery.letter import headers_of

from handrail import envelope
from handrail_recovery.audit import entry

TOLD_MINUTES = "handrail/letter-order.v2"
LETTER_ORDERS = frozenset({LETTER_ORDER, TOLD_MINUTES})
LETTER_STATE = "handrail/letter-state.v1"
STATES_TOPIC = "recovery.states"
TABLES = {"letters": DEAD_LETTER, "states": LETTER_STATE}
_FINAL = ("RESOLVED", "DISCARDED")
_OF_PEOPLE = ("replay", "discard")


def keep(given: Message | Due | Finished, view: View) -> Iterable[Output | Relay]:
    """A new letter is kept and OPEN; an order moves it."""
    if not isinstance(given, Message):
        raise TypeError(f"recovery.letters sets no timers, yet {type(given).__name__} came")
    if given.type == DEAD_LETTER:
        return _opened(given.body, view)
    if given.type in LETTER_ORDERS:
        return _ordered(given.body, view, given.traceparent)
    raise TypeError(f"recovery.letters does not know {given.type}")


def _opened(letter: Mapping[str, Any], view: View) -> list[Output | Relay]:
    before = view.get("states", letter["letter"])
    if before is not None and before["generation"] >= letter["generation"]:
        return []
    state = {
        "letter": letter["letter"],
        "generation": letter["generation"],
        "state": "OPEN",
        "stage": letter["stage"],
        "flow": letter["flow"],
        "failure_class": letter["failure_class"],
        "replays": before["replays"] if before else 0,
        "by": None,
        "reason": letter["message"],
        "at": letter["failed_at"],
    }
    view.put("letters", letter["letter"], letter)
    return [_moved(state, view)]


def _ordered(order: Mapping[str, Any], view: View, context: str | None) -> list[Output | Relay]:
    letter, state = view.get("letters", order["letter"]), view.get("states", order["letter"])
    if state is None:
        return _refused(order, letter, "there is no such letter, or it has not arrived yet")
    if state["generation"] != order["generation"]:
        return _refused(order, letter, f"the letter is of generation {state['generation']} by now")
    match state["state"], order["order"]:
        case "OPEN", "replay":
            moved = {**state, "state": "REPLAYING", "replays": state["replays"] + 1}
        case "OPEN", "discard":
            moved = {**state, "state": "DISCARDED"}
        case "REPLAYING", "resolved":
            moved = {**state, "state": "RESOLVED"}
        case standing, _:
            return _refused(order, letter, f"the letter is {standing}")
    moved |= {"by": order["by"], "reason": order["reason"], "at": order["at"]}
    sent: list[Output | Relay] = [_moved(moved, view)]
    if order["order"] in _OF_PEOPLE:
        sent.append(_audited(order, letter))
    if moved["state"] == "REPLAYING" and letter is not None:
        sent.append(_original(letter, context))
    if moved["state"] in _FINAL:
        view.put("letters", order["letter"], None)
    return sent


def _refused(order: Mapping[str, Any], letter: Mapping[str, Any] | None, why: str) -> list[Output | Relay]:
    """Nothing moves. Who ordered it sees that from the letter's state; the log says why, and never who: no names there."""
    told = {name: order[name] for name in ("letter", "generation", "order")}
    structlog.get_logger().warning("order refused", why=why, **told)
    return [_audited(order, letter, why)] if order["order"] in _OF_PEOPLE else []


def _audited(order: Mapping[str, Any], letter: Mapping[str, Any] | None, refused: str | None = None) -> Output:
    """Of a letter that was closed, its run and flow are forgotten here; the ledger has them."""
    about = letter or {"run": None, "flow": None}
    return entry(order["order"], order, run=about["run"], flow=about["flow"], refused=refused)


def _moved(state: Mapping[str, Any], view: View) -> Output:
    view.put("states", state["letter"], state)
    return Output(STATES_TOPIC, LETTER_STATE, state["letter"], body=state)


def _original(letter: Mapping[str, Any], context: str | None) -> Relay:
    """The original bytes to the stage that failed, on the partition that it came from; never to the shared source.

    They go on in the trace that they came with; `context` is that of the order, to be linked.
    """
    replay = Replay(
        letter["letter"], letter["generation"], letter["topic"], letter["partition"], letter["offset"], context
    )
    return Relay(
        topic=f"{letter['stage']}.replay",
        partition=letter["partition"],
        key=letter["key"],
        value=letter["value"],
        headers=(*headers_of(letter["headers"]), *envelope.replay_headers(replay)),
    )
