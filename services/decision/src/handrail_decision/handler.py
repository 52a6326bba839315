"""Decision: the run's next step. It hears everything: prepared events, first failures, outcomes, verdicts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from handrail.flow import (
    Advance,
    Event,
    Flow,
    HumanVerdict,
    Prepared,
    RunState,
    StepFailing,
    StepOutcome,
    Values,
    advance,
)
from handrail.flow.run import ENDS
from handrail.identity import output_id
from handrail.message import Due, Finished, GiveUp, Message, Output, Run
from handrail.pending import View

PREPARED = "handrail/prepared.v1"
FAILING = "handrail/step-failing.v1"
OUTCOME = "handrail/outcome.v1"
HUMAN_DECISION = "handrail/human-decision.v1"
RUNS, TASKS = "runs", "tasks"
TABLES = {"runs": "handrail/run-state.v2"}


@dataclass(frozen=True, slots=True)
class Decide:
    """The handler of one flow. `flow` gives a version of it; `decode` a value in the Confluent wire format."""

    flow: Callable[[int], Flow]
    decode: Callable[[bytes], Mapping[str, Any]]

    def __call__(self, given: Message | Due | Finished, view: View) -> Iterable[Output | GiveUp]:
        """Advance the run; its new state and all that must be sent are committed together."""
        if not isinstance(given, Message) or given.run is None:
            raise TypeError(f"decision takes messages of a run only, not {given!r}")
        run = given.run
        flow = self.flow(run.version)
        row = view.get("runs", run.id)
        state = RunState.from_record(row) if row is not None else None
        event = self._event(flow, given, view.now)
        moved = advance(flow, state, event, self._values(state, event))
        if moved.state is not None and moved.state is not state:
            view.put("runs", run.id, {**moved.state.to_record(), "traceparent": given.traceparent})
        for transition in moved.transitions:
            if transition["state"] in ENDS and transition["state"] != transition["previous"]:
                view.count(f"runs.{transition['state']}")
        return _outputs(flow, run, given, moved)

    def _event(self, flow: Flow, message: Message, now: int) -> Event:
        """What happened, with its own time; a replay happens now."""
        body = message.body
        if message.type == PREPARED:
            dedupe = flow.dedupe(self.decode(body["event"]))
            return Prepared(body["run"], message.key, body["event"], body["request"], dedupe, message.time)
        if message.type == HUMAN_DECISION:
            return HumanVerdict(body["task"], body["step"], body["verdict"], body["by"], body["reason"], body["at"])
        if message.type == FAILING:
            told = (body[name] for name in ("step", "revision", "failure_class", "reason", "attempts", "at"))
            return StepFailing(*told)
        return StepOutcome(
            step=body["step"],
            revision=body["revision"],
            status=body["status"],
            failure_class=body["failure_class"],
            reason=body["reason"],
            response=body["response"],
            attempts=body["attempts"],
            first_failure_at=body["first_failure_at"],
            replay=message.replay > 0,
            at=now if message.replay else body["ended_at"],
        )

    def _values(self, state: RunState | None, event: Event) -> Values:
        """What the run's bytes decode to; of a new run, those of the event."""
        if isinstance(event, Prepared):
            return Values(self.decode(event.event), self.decode(event.request), {})
        if state is None:
            return Values({}, {}, {})
        raw = dict(state.responses)
        if isinstance(event, StepOutcome) and event.response is not None:
            raw[event.step] = event.response
        responses = {step: self.decode(value) for step, value in raw.items()}
        return Values(self.decode(state.event), self.decode(state.request), responses)


def continues(message: Message, view: View) -> str | None:
    """The trace context that a person's decision goes on in: that of the run's last move, may it be hours ago."""
    if message.type != HUMAN_DECISION or message.run is None:
        return None
    row = view.get("runs", message.run.id)
    return row.get("traceparent") if row is not None else None


def _outputs(flow: Flow, run: Run, message: Message, moved: Advance) -> Iterable[Output | GiveUp]:
    """What must be sent. Ids come from what the records say, as an outcome that is replayed is the same message again."""
    route = moved.state.route if moved.state is not None else message.key
    for transition in moved.transitions:
        id_ = output_id(run.id, RUNS, transition["sequence"])
        yield Output(
            RUNS, "handrail/run-transition.v3", route, body={**transition, "trace": message.trace}, run=run, id=id_
        )
    for command in moved.commands:
        id_ = output_id(run.id, f"command/{command['step']}", command["revision"])
        yield Output(f"action.{command['system']}", "handrail/command.v1", route, body=command, run=run, id=id_)
    for task in moved.tasks:
        yield Output(TASKS, "handrail/task.v1", task["task"], body=task, run=run)
    if moved.done is not None and flow.result is not None:
        yield Output(f"{flow.name}.done", flow.result, route, body=moved.done, run=run, public=True)
    if moved.give_up is not None:
        yield moved.give_up
