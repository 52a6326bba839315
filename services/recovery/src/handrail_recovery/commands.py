"""Operators' orders: each becomes a message to the one stage that may carry it out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from handrail.errors import ContractBroken
from handrail.message import Due, Finished, Message, Output, Run
from handrail.outbox import LETTER_ORDER, LETTERS_REPLAY
from handrail.pending import View

from handrail_recovery.audit import entry
from handrail_recovery.letters import TOLD_MINUTES

OPERATOR_COMMANDS = frozenset({"handrail/operator-command.v1", "handrail/operator-command.v2"})
HUMAN_DECISION = "handrail/human-decision.v1"
_VERDICTS = ("approve", "reject", "done")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CarryOut:
    """The handler. `knows` says whether there is a flow of that version: its decision stage would wait for it for ever."""

    knows: Callable[[str, int], bool]

    def __call__(self, given: Message | Due | Finished, _view: View) -> Iterable[Output]:
        """Letter orders go to recovery.letters (which audits what comes of them), decisions to the run's decision stage.

        The review of a flow moves nothing: it is noted in the audit.

        Raises ContractBroken for an order that lacks what it needs: it ends as a dead letter, never half done.
        """
        if not isinstance(given, Message):
            raise TypeError(f"recovery.commands sets no timers, yet {type(given).__name__} came")
        order = given.body
        match order["command"]:
            case "decide":
                return [self._decision(order), entry(order["verdict"], order, run=order["run"], flow=order["flow"])]
            case "review":
                return [self._review(order)]
        return [_letter_order(order)]

    def _review(self, order: Mapping[str, Any]) -> Output:
        flow = self._flow(order)
        _words(order["by"], "by")
        _words(order["reason"], "reason")
        return entry("review", order, run=None, flow=flow)

    def _flow(self, order: Mapping[str, Any]) -> str:
        flow: str = _need(order["flow"], "flow")
        version: int = _need(order["version"], "version")
        if not self.knows(flow, version):
            raise ContractBroken(f"there is no version {version} of a flow {flow!r} here", field="version")
        return flow

    def _decision(self, order: Mapping[str, Any]) -> Output:
        flow, route = self._flow(order), _need(order["route"], "route")
        run = Run(_run_id(_need(order["run"], "run")), flow, order["version"])
        verdict = _need(order["verdict"], "verdict")
        if verdict not in _VERDICTS:
            raise ContractBroken(f"verdict {verdict!r} is none of {', '.join(_VERDICTS)}", field="verdict")
        if verdict == "reject":
            _words(order["reason"], "reason")
        body = {
            "run": run.id,
            "flow": flow,
            "version": run.version,
            "task": _need(order["task"], "task"),
            "step": _need(order["step"], "step"),
            "verdict": verdict,
            "by": _words(order["by"], "by"),
            "reason": order["reason"],
            "at": order["at"],
        }
        return Output(f"{flow}.decision", HUMAN_DECISION, route, body=body, run=run)


def _letter_order(order: Mapping[str, Any]) -> Output:
    letter = _need(order["letter"], "letter")
    if order["command"] == "discard":
        _words(order["reason"], "reason")
    body = {
        "letter": letter,
        "generation": _need(order["generation"], "generation"),
        "order": order["command"],
        "by": _words(order["by"], "by"),
        "reason": order["reason"],
        "at": order["at"],
    }
    minutes = order.get("minutes")
    if minutes is None:  # as an older recovery.letters takes it, too
        return Output(LETTERS_REPLAY, LETTER_ORDER, letter, body=body)
    return Output(LETTERS_REPLAY, TOLD_MINUTES, letter, body={**body, "minutes": minutes})


def _run_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise ContractBroken(f"{text[:80]!r} is not the id of a run", field="run") from None


def _need(value: T | None, field: str) -> T:
    if value is None or value == "":
        raise ContractBroken(f"the order needs {field}", field=field)
    return value


def _words(value: str | None, field: str) -> str:
    """What a person has to say: blanks say nothing."""
    return _need(value if value and value.strip() else None, field)
