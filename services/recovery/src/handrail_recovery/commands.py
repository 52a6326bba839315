"""Operators' orders: each becomes a message to the one stage that may carry it out. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from handrail.errors import ContractBroken
from handrail.message import Due, Finished, Message, Output, Run
from handrail.outbox import LETTER_ORDER, LETTERS_REPLAY
from handrail.pending import View

OPERATOR_COMMAND = "handrail/operator-command.v1"
HUMAN_DECISION = "handrail/human-decision.v1"
_VERDICTS = ("approve", "reject", "done")
T = TypeVar("T")


def carry_out(given: Message | Due | Finished, _view: View) -> Iterable[Output]:
    """Letter orders go to recovery.letters, decisions about tasks to the run's decision stage.

    Raises ContractBroken for an order that lacks what it needs: it ends as a dead letter, never half done.
    """
    if not isinstance(given, Message):
        raise TypeError(f"recovery.commands sets no timers, yet {type(given).__name__} came")
    order = given.body
    if order["command"] == "decide":
        return [_decision(given)]
    letter = _need(order["letter"], "letter")
    if order["command"] == "discard":
        _need(order["reason"], "reason")
    body = {
        "letter": letter,
        "generation": _need(order["generation"], "generation"),
        "order": order["command"],
        "by": order["by"],
        "reason": order["reason"],
        "at": order["at"],
    }
    return [Output(LETTERS_REPLAY, LETTER_ORDER, letter, body=body)]


def _decision(given: Message) -> Output:
    order = given.body
    flow, route = _need(order["flow"], "flow"), _need(order["route"], "route")
    run = Run(_need(order["run"], "run"), flow, _need(order["version"], "version"))
    verdict = _need(order["verdict"], "verdict")
    if verdict not in _VERDICTS:
        raise ContractBroken(f"verdict {verdict!r} is none of {', '.join(_VERDICTS)}", field="verdict")
    body = {
        "run": run.id,
        "flow": flow,
        "version": run.version,
        "task": _need(order["task"], "task"),
        "step": _need(order["step"], "step"),
        "verdict": verdict,
        "by": order["by"],
        "reason": order["reason"],
        "at": order["at"],
    }
    return Output(f"{flow}.decision", HUMAN_DECISION, route, body=body, run=run)


def _need(value: T | None, field: str) -> T:
    if value is None or value == "":
        raise ContractBroken(f"the order needs {field}", field=field)
    return value
