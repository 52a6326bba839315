"""A run as decision keeps it, and what can happen to it. Values only; `handrail.flow.engine` moves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from handrail.message import GiveUp

Bodies = Mapping[str, Any]

ACTING, WAITING, MANUAL = "acting", "waiting", "manual"
PREPARED, DECIDED = "prepared", "decided"
DONE, REJECTED, FAILED, DONE_BY_HAND = "done", "rejected", "failed", "done-by-hand"
ENDS = frozenset({DONE, REJECTED, FAILED, DONE_BY_HAND, "compensated", "cancelled"})
"""States in which a run rests for good; only the replay of a dead letter takes it out of `failed`."""


@dataclass(frozen=True, slots=True)
class RunState:
    """The contract `handrail/run-state.v2`, field by field, without the trace context: that is decision's, not the run's.

    `step_index` is -1 while the run waits for the review that its decision table asked for. `event`, `request` and
    `responses` hold bytes in the Confluent wire format, `decision` is JSON. Times are ms since the epoch.
    """

    run: str
    flow: str
    version: int
    route: str
    state: str
    step: str | None
    step_index: int
    revision: int
    sequence: int
    event: bytes
    request: bytes
    decision: str | None
    responses: Mapping[str, bytes] = field(hash=False)
    task: str | None
    dedupe: Mapping[str, str] = field(hash=False)
    first_failure_at: int | None
    started_at: int
    updated_at: int

    @property
    def ended(self) -> bool:
        return self.state in ENDS

    def to_record(self) -> dict[str, Any]:
        """As the contract has it."""
        record = {each.name: getattr(self, each.name) for each in fields(self)}
        return record | {"responses": dict(self.responses), "dedupe": dict(self.dedupe)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> RunState:
        """From a value of the contract. Fields that a newer contract has are left out."""
        return cls(**{each.name: record[each.name] for each in fields(cls)})


@dataclass(frozen=True, slots=True)
class Prepared:
    """A transformed event asks for its run. `event` and `request` are in the Confluent wire format."""

    run: str
    route: str
    event: bytes
    request: bytes
    dedupe: Mapping[str, str] = field(hash=False)
    at: int


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """How a command ended (the contract `handrail/outcome.v1`). `replay`: it comes back out of the dead letters."""

    step: str
    revision: int
    status: Literal["verified", "accepted", "failed", "unknown"]
    failure_class: str | None
    reason: str | None
    response: bytes | None
    attempts: int
    first_failure_at: int | None
    replay: bool
    at: int


@dataclass(frozen=True, slots=True)
class StepFailing:
    """A command's first call failed, and is tried again (the contract `handrail/step-failing.v1`)."""

    step: str
    revision: int
    failure_class: str
    reason: str | None
    attempts: int
    at: int


@dataclass(frozen=True, slots=True)
class HumanVerdict:
    """What a person decided about a task."""

    task: str
    step: str
    verdict: Literal["approve", "reject", "done"]
    by: str
    reason: str | None
    at: int


Event: TypeAlias = Prepared | StepFailing | StepOutcome | HumanVerdict


@dataclass(frozen=True, slots=True)
class Values:
    """What the run's bytes decode to, for rules and mappings.

    `responses` holds the answer of every step that is done and, when the event is an outcome, the one that it brings.
    """

    event: Bodies
    request: Bodies
    responses: Mapping[str, Bodies]


@dataclass(frozen=True, slots=True)
class Advance:
    """What an event did: the run's next state and everything that must be sent, to be committed together.

    `transitions`, `commands` and `tasks` are bodies of `handrail/run-transition.v3` (without `trace`), `command.v1` and
    `task.v1`; `done` is the body of the flow's `result`. `give_up`: the event ends as a dead letter. `ignored` says why
    nothing happened; then everything else is empty and `state` is as it was.
    """

    state: RunState | None
    transitions: tuple[dict[str, Any], ...] = ()
    commands: tuple[dict[str, Any], ...] = ()
    tasks: tuple[dict[str, Any], ...] = ()
    done: dict[str, Any] | None = None
    give_up: GiveUp | None = None
    ignored: str | None = None
