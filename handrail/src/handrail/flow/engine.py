"""The run engine: `advance(flow, state, event, view) -> Advance`. Pure: no I/O, and the clock is the event's.

    (none) -> prepared -> decided -> acting(step) [-> acting, failing] ... -> done
                             |          |  \\- failed: the outcome becomes a dead letter, whose replay acts again
                             |          \\---- manual: nobody knows, or the flow hands over: done-by-hand | failed
                             |-> waiting(review | approval step) -> next step | rejected | done-by-hand
                             \\-> rejected

A duplicate, an outcome of an older revision, a verdict on a closed task: each is ignored with a reason, never an error.
What a rule or a mapping raises goes through; then nothing has happened, and the event may come again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from handrail.flow.bound import Flow
from handrail.flow.model import REVIEW, Step
from handrail.flow.run import (
    ACTING,
    DECIDED,
    DONE,
    DONE_BY_HAND,
    FAILED,
    MANUAL,
    PREPARED,
    REJECTED,
    WAITING,
    Advance,
    Event,
    HumanVerdict,
    Prepared,
    RunState,
    StepFailing,
    StepOutcome,
    Values,
)
from handrail.flow.table import Decision
from handrail.flow.tasks import closed, task_body, task_id
from handrail.message import GiveUp

_BEFORE = -1
"""The place before the first step, where a review waits."""


def advance(flow: Flow, state: RunState | None, event: Event, view: Values) -> Advance:
    """Move a run by one event.

    `view` is what the run's bytes (and an outcome's response) decode to. Raises Failure when a rule or a mapping can't
    answer, whatever a mapping raises, and ValueError when `flow` is not the run's own version.
    """
    if state is not None and (state.flow, state.version) != (flow.name, flow.version):
        raise ValueError(f"run {state.run} is of {state.flow} v{state.version}, not of {flow.name} v{flow.version}")
    match event:
        case Prepared():
            return _prepared(flow, state, event, view)
        case StepFailing():
            return _failing(flow, state, event, view)
        case StepOutcome():
            return _outcome(flow, state, event, view)
        case HumanVerdict():
            return _verdict(flow, state, event, view)


class _Turn:
    """One event at work: the run as it is by now, and what has to be sent."""

    def __init__(self, flow: Flow, state: RunState, at: int, view: Values) -> None:
        self.flow = flow
        self.state = state
        self.at = at
        self.view = view
        self._transitions: list[dict[str, Any]] = []
        self._commands: list[dict[str, Any]] = []
        self._tasks: list[dict[str, Any]] = []
        self._done: dict[str, Any] | None = None

    @property
    def decision(self) -> Decision | None:
        return Decision.from_json(self.state.decision) if self.state.decision else None

    def change(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)

    def move(self, to: str, event: str, **told: Any) -> None:
        """One step forward: the state, and the transition that tells of it. `told` are fields of the transition."""
        before = self.state
        self.change(state=to, sequence=before.sequence + 1, updated_at=self.at)
        body = {
            "run": before.run,
            "flow": before.flow,
            "version": before.version,
            "route": before.route,
            "sequence": self.state.sequence,
            "previous": before.state or None,
            "state": to,
            "event": event,
            "step": self.state.step,
            "failure_class": None,
            "reason": None,
            "attempts": 0,
            "actor": None,
            "dedupe": dict(before.dedupe),
            "segments": {},
            "outcomes": [],
            "task": None,
            "first_failure_at": None,
            "at": self.at,
        }
        self._transitions.append(body | told)

    def open_task(self, task: str, kind: str, failure: StepOutcome | None = None) -> None:
        self.change(task=task)
        self._tasks.append(task_body(self.flow, self.state, self.view, kind, self.at, failure))

    def close_task(self, verdict: HumanVerdict, kind: str) -> None:
        self._tasks.append(closed(self.flow, self.state, self.view, kind, verdict))
        self.change(task=None)

    def act(self, step: Step, index: int, revision: int, event: str, **told: Any) -> None:
        """Start the step's call at a revision."""
        view, state = self.view, self.state
        request = self.flow.call_body(step, state.request, view.event, view.request, view.responses)
        self.change(step=step.id, step_index=index, revision=revision, task=None)
        self.move(ACTING, event, **told)
        self._commands.append(
            {
                "run": state.run,
                "flow": state.flow,
                "version": state.version,
                "route": state.route,
                "step": step.id,
                "revision": revision,
                "system": step.system,
                "operation": step.operation,
                "event": state.event,
                "request": request,
                "issued_at": self.at,
            }
        )

    def go_on(self, index: int, event: str, **told: Any) -> None:
        """Start the first step from `index` on that is wanted, or finish. Steps passed over are told of too.

        `told` goes to the transition that ends this, as it is the one that the event caused.
        """
        for place in range(index, len(self.flow.steps)):
            step = self.flow.steps[place]
            view = self.view
            if not self.flow.wants(step, view.event, view.request, view.responses, self.decision):
                self.change(step=step.id, step_index=place, revision=0)
                self.move(self.state.state, "skipped", reason=f"`{step.when}` does not hold")
                continue
            if step.call:
                self.act(step, place, 1, event, **told)
            else:
                self.wait(step.id, place, event, **told)
            return
        self.finish(DONE, event, **told)

    def wait(self, step: str, index: int, event: str, **told: Any) -> None:
        """Ask a person for a yes or a no."""
        task = task_id(self.state.run, step, 1)
        self.change(step=step, step_index=index, revision=1)
        self.move(WAITING, event, **({"task": task} | told))
        self.open_task(task, "approval")

    def finish(self, end: str, event: str, **told: Any) -> None:
        """The run's good end, by machine or by hand: what follows cannot tell which."""
        self._done = self.flow.mapping.done(self.view.event, self.view.request, self.view.responses)
        self.change(first_failure_at=None)
        self.move(end, event, **told)

    def ended(self, give_up: GiveUp | None = None) -> Advance:
        return Advance(
            self.state,
            tuple(self._transitions),
            tuple(self._commands),
            tuple(self._tasks),
            self._done,
            give_up,
        )


def _prepared(flow: Flow, state: RunState | None, event: Prepared, view: Values) -> Advance:
    if state is not None:
        return Advance(state, ignored=f"the run exists and is {state.state}: this event is a duplicate")
    turn = _Turn(flow, _new(flow, event), event.at, view)
    told = {"segments": flow.segments(view.event), "outcomes": flow.outcomes(view.event, event.at)}
    turn.move(PREPARED, "prepared", **told)
    decision = flow.decide(view.event, view.request)
    if decision is not None:
        turn.change(decision=decision.to_json())
        turn.move(DECIDED, "decision", reason=f"{decision.route} by row {decision.row}: {decision.reason}")
        if decision.route == "reject":
            turn.move(REJECTED, "decision", reason=decision.reason)
            return turn.ended()
        if decision.route == "review" and not flow.reviews_itself:
            turn.wait(REVIEW, _BEFORE, "decision", reason=decision.reason)
            return turn.ended()
    turn.go_on(0, "next")
    return turn.ended()


def _new(flow: Flow, event: Prepared) -> RunState:
    return RunState(
        run=event.run,
        flow=flow.name,
        version=flow.version,
        route=event.route,
        state="",
        step=None,
        step_index=_BEFORE,
        revision=0,
        sequence=0,
        event=event.event,
        request=event.request,
        decision=None,
        responses={},
        task=None,
        dedupe=dict(event.dedupe),
        first_failure_at=None,
        started_at=event.at,
        updated_at=event.at,
    )


def _failing(flow: Flow, state: RunState | None, event: StepFailing, view: Values) -> Advance:
    """The step goes on, but no longer well: whoever looks at the run sees since when. Its failure class is not told as one
    of the run, which has not failed by it."""
    why_not = _stale(state, event)
    if state is not None and why_not is None and state.state != ACTING:
        why_not = f"the run is {state.state}: how its step went is known"
    if why_not or state is None:
        return Advance(state, ignored=why_not)
    turn = _Turn(flow, state, event.at, view)
    first = _earliest(state.first_failure_at, event.at)
    reason = f"{event.failure_class}: {event.reason}" if event.reason else event.failure_class
    turn.change(first_failure_at=first)
    turn.move(ACTING, "failing", reason=reason, attempts=event.attempts, first_failure_at=first)
    return turn.ended()


def _outcome(flow: Flow, state: RunState | None, event: StepOutcome, view: Values) -> Advance:
    why_not = _stale_outcome(state, event)
    if why_not or state is None:
        return Advance(state, ignored=why_not)
    turn = _Turn(flow, state, event.at, view)
    if state.state == FAILED:
        step = flow.steps[state.step_index]
        told = {"reason": f"replayed: revision {state.revision + 1} of {step.id}", "attempts": event.attempts}
        turn.act(step, state.step_index, state.revision + 1, "replay", first_failure_at=state.first_failure_at, **told)
        return turn.ended()
    if event.status in ("verified", "accepted"):
        return _succeeded(turn, event)
    return _in_trouble(turn, event)


def _stale(state: RunState | None, event: StepFailing | StepOutcome) -> str | None:
    """Why what a step tells is not of where the run is; None when it is."""
    if state is None:
        return "there is no such run"
    if event.step != state.step or event.revision != state.revision:
        return f"it is of {event.step} r{event.revision}, and the run is at {state.step} r{state.revision}"
    return None


def _stale_outcome(state: RunState | None, event: StepOutcome) -> str | None:
    """Why an outcome moves nothing; None when it does."""
    why_not = _stale(state, event)
    if why_not or state is None or state.state == ACTING:
        return why_not
    if state.state == FAILED and event.replay:
        return None if event.status == "failed" else f"only a failure can be replayed, and this is {event.status}"
    return f"the run is {state.state}: the outcome is known already"


def _succeeded(turn: _Turn, event: StepOutcome) -> Advance:
    state = turn.state
    if event.response is not None:
        turn.change(responses={**state.responses, event.step: event.response})
    told = {
        "reason": f"{event.step} {event.status}" + (f": {event.reason}" if event.reason else ""),
        "attempts": event.attempts,
        "first_failure_at": _earliest(state.first_failure_at, event.first_failure_at),
    }
    turn.change(first_failure_at=None)
    if state.step_index + 1 == len(turn.flow.steps):
        turn.finish(DONE, "outcome", **told)
    else:
        turn.move(ACTING, "outcome", **told)
        turn.go_on(state.step_index + 1, "next")
    return turn.ended()


def _in_trouble(turn: _Turn, event: StepOutcome) -> Advance:
    """A step failed for good, or nobody can say whether it happened."""
    unknown = event.status == "unknown"
    failure_class = event.failure_class or ("unknown_outcome" if unknown else "bug")
    reason = event.reason or "no reason was given"
    first = _earliest(turn.state.first_failure_at, event.first_failure_at) or event.at
    told = {
        "failure_class": failure_class,
        "reason": reason,
        "attempts": event.attempts,
        "first_failure_at": first,
    }
    turn.change(first_failure_at=first)
    if unknown or turn.flow.hands_over:
        task = task_id(turn.state.run, event.step, event.revision)
        turn.move(MANUAL, "outcome", task=task, **told)
        turn.open_task(task, "manual", event)
        return turn.ended()
    turn.move(FAILED, "outcome", **told)
    return turn.ended(GiveUp(failure_class, reason, event.step, None, event.attempts, first))


def _earliest(*times: int | None) -> int | None:
    return min((time for time in times if time is not None), default=None)


def _verdict(flow: Flow, state: RunState | None, event: HumanVerdict, view: Values) -> Advance:
    if state is None:
        return Advance(None, ignored="there is no such run")
    if state.state not in (WAITING, MANUAL) or state.task != event.task:
        return Advance(state, ignored=f"the task is closed: the run is {state.state}")
    if state.state == MANUAL and event.verdict == "approve":
        return Advance(state, ignored="manual work is answered by `done` (finished by hand) or `reject` (given up)")
    turn = _Turn(flow, state, event.at, view)
    kind = "approval" if state.state == WAITING else "manual"
    told: dict[str, Any] = {"reason": event.reason, "actor": event.by, "task": event.task}
    if state.state == MANUAL:
        told["first_failure_at"] = state.first_failure_at
    turn.close_task(event, kind)
    match event.verdict:
        case "done":
            turn.finish(DONE_BY_HAND, "human-decision", **told)
        case "reject":
            turn.move(REJECTED if kind == "approval" else FAILED, "human-decision", **told)
        case "approve":
            turn.move(WAITING, "human-decision", **told)
            turn.go_on(state.step_index + 1, "next")
    return turn.ended()
