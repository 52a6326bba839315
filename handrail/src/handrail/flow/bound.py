"""A flow that was read, checked and bound to its rules, its Python, its systems and its contracts."""

from __future__ import annotations

from collections.abc import Mapping as Values
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handrail.contracts import Contracts
from handrail.errors import Failure
from handrail.flow.cel import Condition, Scope
from handrail.flow.mapping import Mapping, Record
from handrail.flow.model import FlowFile, Manual, Outcome, People, Step, Trigger
from handrail.flow.run import DONE
from handrail.flow.system import Operation, System
from handrail.flow.table import Decision, Table
from handrail.identity import run_id
from handrail.recovery import Policy

_SEGMENT_LENGTH = 200
_EXACT = 2**53
"""Above it a double is no whole number any more."""
_TEN_YEARS_MS = 3_653 * 86_400_000


@dataclass(frozen=True, slots=True)
class Ask:
    """A compiled condition with the scope that gives it its values."""

    scope: Scope
    condition: Condition


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """One version of a flow, ready to run. Immutable and pure: it reads no file and no clock.

    `definition` is what the file says; the properties below are the parts that services ask for. `request_contract` is
    what the transform makes. `policy` is the flow's `retry` over recovery's defaults.
    """

    definition: FlowFile
    folder: Path
    mapping: Mapping
    table: Table | None
    request_contract: str
    policy: Policy
    systems: Values[str, System]
    contracts: Contracts
    conditions: Values[str, Ask]
    expectations: Values[str, Ask]

    @property
    def name(self) -> str:
        return self.definition.flow

    @property
    def version(self) -> int:
        return self.definition.version

    @property
    def people(self) -> People:
        return self.definition.people

    @property
    def purpose(self) -> str:
        return self.definition.purpose

    @property
    def trigger(self) -> Trigger:
        return self.definition.trigger

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.definition.steps

    @property
    def manual(self) -> Manual:
        return self.definition.manual

    @property
    def result(self) -> str | None:
        """The contract of what goes to `<flow>.done`; None: the flow publishes nothing."""
        return self.definition.result

    @property
    def hands_over(self) -> bool:
        """A step that failed for good goes to a person (`on_failure: [manual]`) instead of to the dead letters."""
        return "manual" in self.definition.on_failure

    @property
    def reviews_itself(self) -> bool:
        """An approval step asks for the decision, so that `review` needs no wait of its own."""
        return any(step.approval and step.when and "decision." in step.when for step in self.steps)

    def step(self, name: str) -> Step:
        """The step of that id. Raises KeyError."""
        found = next((step for step in self.steps if step.id == name), None)
        if found is None:
            raise KeyError(f"the flow {self.name} has no step {name}")
        return found

    def route(self, event: Record) -> str:
        """The business key of the event's run: order is kept per route."""
        return _plain(event, self.trigger.key)

    def dedupe(self, event: Record) -> dict[str, str]:
        """What makes this business event the one that it is."""
        return {name: _plain(event, name) for name in self.trigger.dedupe}

    def segments(self, event: Record) -> dict[str, str]:
        """What the measures are told apart by; a field that is null has no segment."""
        found = {name: event.get(name) for name in self.definition.segments}
        return {name: str(value)[:_SEGMENT_LENGTH] for name, value in found.items() if value is not None}

    def outcomes(self, event: Record, begun_at: int) -> list[dict[str, Any]]:
        """The flow's outcome measures for the event's run, as the contract `handrail/run-transition.v3` has them.

        One whose field is null, an amount that is too large to be added exactly, and a time that is none (seconds, say) are
        left out: a measure never stops a run, and one event never spoils a measure.
        """
        found = ((name, _declared(one, event, begun_at)) for name, one in self.definition.outcomes.items())
        return [{"name": name, **values} for name, values in found if values is not None]

    def run_id(self, event: Record) -> str:
        """The id of the event's run."""
        return run_id(self.name, self.dedupe(event))

    def operation(self, step: Step) -> tuple[System, Operation]:
        """The system and the operation that a step calls."""
        system = self.systems[step.system or ""]
        return system, system.operations[step.operation or ""]

    def question(self, step: Step) -> tuple[System, Operation] | None:
        """The system and the operation that verify a step; None when it is not verified."""
        if step.verify is None:
            return None
        name, _, operation = step.verify.call.partition(".")
        return self.systems[name], self.systems[name].operations[operation]

    def decide(self, event: Record, request: Record) -> Decision | None:
        """What the decision table answers; None without a table. Raises Failure."""
        return None if self.table is None else self.table.decide({"event": event, "request": request})

    def wants(
        self, step: Step, event: Record, request: Record, responses: Values[str, Record], decision: Decision | None
    ) -> bool:
        """Whether the step's `when` holds; a step without one is always taken. Raises Failure."""
        ask = self.conditions.get(step.id)
        if ask is None:
            return True
        values = {"event": event, "request": request, **{f"responses.{name}": each for name, each in responses.items()}}
        decided = decision_variables(decision) if decision else None
        return ask.condition.holds(ask.scope.flatten(values, decided))

    def verified(self, step: str, event: Record, request: Record, response: Record) -> bool:
        """Whether the answer to the step's `verify` shows that it happened as asked.

        `request` is the body of the step's call, `response` the answer of the verify call. Raises Failure.
        """
        ask = self.expectations[step]
        return ask.condition.holds(ask.scope.flatten({"event": event, "request": request, "response": response}))

    def call_body(
        self, step: Step, request: bytes, event: Record, decoded: Record, responses: Values[str, Record]
    ) -> bytes:
        """The body of the step's call in the Confluent wire format: the request itself unless `with` says otherwise."""
        if step.with_ is None:
            return request
        contract = self.operation(step)[1].request
        if contract is None:
            raise Failure("config", f"{step.call} takes no body, but the step {step.id} has `with`")
        return self.contracts.encode(contract, self.mapping.body(step.id, event, decoded, responses))


def _declared(outcome: Outcome, event: Record, begun_at: int) -> dict[str, Any] | None:
    made: dict[str, Any] = dict.fromkeys(("amount", "unit", "step", "since", "within_ms"))
    if outcome.amount is not None:
        amount, unit = event.get(outcome.amount), event.get(outcome.unit) if outcome.unit else None
        if amount is None or not abs(amount) <= _EXACT:
            return None
        return made | {"amount": amount / outcome.scale, "unit": None if unit is None else str(unit)[:_SEGMENT_LENGTH]}
    since = event.get(outcome.since) if outcome.since else begun_at
    if since is None or abs(since - begun_at) > _TEN_YEARS_MS:
        return None
    step = None if outcome.until == DONE else outcome.until
    return made | {"step": step, "since": since, "within_ms": outcome.within_ms}


def decision_variables(decision: Decision) -> dict[str, Any]:
    """What a `when` may ask about the decision."""
    return {"decision.route": decision.route, "decision.row": decision.row, "decision.reason": decision.reason}


def _plain(event: Record, name: str) -> str:
    value = event.get(name)
    if value is None:
        raise Failure("contract", f"the event has no {name}, which tells its run from others", field=name)
    return str(value)
