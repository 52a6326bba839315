"""Human tasks as the engine writes them: bodies of the contract `handrail/task.v1`."""

from __future__ import annotations

import json
from typing import Any

from handrail.flow.bound import Flow
from handrail.flow.run import HumanVerdict, RunState, StepOutcome, Values
from handrail.flow.table import Decision
from handrail.identity import output_id

_STATES = {"approve": "approved", "reject": "rejected", "done": "done"}


def task_id(run: str, step: str, revision: int) -> str:
    """The id of the task of a step at a revision: a repeated event repeats it."""
    return output_id(run, f"task/{step}", revision)


def task_body(
    flow: Flow, state: RunState, view: Values, kind: str, at: int, failure: StepOutcome | None = None
) -> dict[str, Any]:
    """An open task of the step that the run is at. `failure`: what made it necessary, for the person to see."""
    group, title, due_ms = _asked(flow, state) if kind == "approval" else _manual(flow, state)
    return {
        "run": state.run,
        "flow": state.flow,
        "version": state.version,
        "task": state.task,
        "route": state.route,
        "step": state.step,
        "kind": kind,
        "state": "open",
        "group": group,
        "title": title,
        "context": _context(state, view, failure),
        "runbook": f"{flow.name}/v{flow.version}/{flow.manual.runbook}",
        "due_at": None if due_ms is None else at + due_ms,
        "decided_by": None,
        "reason": failure.reason if failure else None,
        "at": at,
    }


def closed(flow: Flow, state: RunState, view: Values, kind: str, verdict: HumanVerdict) -> dict[str, Any]:
    """The open task of the run, decided."""
    # It was opened by the run's last move, so the time of that gives the same due time again.
    body = task_body(flow, state, view, kind, state.updated_at)
    decided = {"state": _STATES[verdict.verdict], "decided_by": verdict.by, "reason": verdict.reason, "at": verdict.at}
    return body | decided


def _asked(flow: Flow, state: RunState) -> tuple[str, str, int | None]:
    """Group, title and time of an approval: of the step, or of the row that asked for a review."""
    approval = flow.steps[state.step_index].approval if state.step_index >= 0 else None
    if approval is not None:
        return approval.group, approval.title or f"Approve {state.step} of {flow.name} {state.route}?", approval.due_ms
    decision = Decision.from_json(state.decision) if state.decision else None
    group = (decision.group if decision else None) or flow.people.rules or flow.people.owner
    why = f": {decision.reason}" if decision else ""
    return group, f"Let {flow.name} {state.route} go on?{why}", decision.due_ms if decision else None


def _manual(flow: Flow, state: RunState) -> tuple[str, str, int | None]:
    title = f"Finish {state.step} of {flow.name} {state.route} by hand"
    return flow.manual.group or flow.people.owner, title, flow.manual.within_ms


def _context(state: RunState, view: Values, failure: StepOutcome | None) -> str:
    context: dict[str, Any] = {
        "event": view.event,
        "request": view.request,
        "responses": view.responses,
        "decision": json.loads(state.decision) if state.decision else None,
    }
    if failure is not None:
        context["failure"] = {
            "class": failure.failure_class,
            "reason": failure.reason,
            "attempts": failure.attempts,
            "status": failure.status,
        }
    return json.dumps(context, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)
