"""What a flow file says, as values. No behaviour: `handrail.flow.bound.Flow` is a flow that can be run."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from handrail.contracts import normalised_name
from handrail.flow.duration import format_duration, parse_duration
from handrail.flow.reading import Loc, Strict, Wrong

REVIEW = "review"
"""The step that a run waits at when the decision table sends it to a person."""


def _pattern(pattern: str, like: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise Wrong(f"{text!r} can't be used here", f"write it like {like}")
        return text

    return AfterValidator(check)


Duration = Annotated[int, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]
Text = Annotated[str, _pattern(r"(?s)\s*\S.*", "a text that is not empty")]
Name = Annotated[str, _pattern(r"[a-z][a-z0-9-]{0,62}", "`order-to-invoice`")]
StepId = Annotated[str, _pattern(r"[a-z][a-z0-9_-]{0,62}", "`invoice`")]
ContractName = Annotated[
    str,
    AfterValidator(normalised_name),
    _pattern(r"[a-z][a-z0-9-]*/[a-z][a-z0-9-]*\.v[1-9][0-9]*", "`orders.order-accepted.v1`"),
]
Function = Annotated[str, _pattern(r"[a-z_][a-z0-9_]*:[A-Za-z_][A-Za-z0-9_]*", "`mapping:to_invoice_request`")]
Call = Annotated[str, _pattern(r"[a-z][a-z0-9-]*\.[a-z][a-z0-9-]*", "`billing.create-invoice`")]
Inside = Annotated[
    str, _pattern(r"(?!/)(?!.*\.\.)[A-Za-z0-9_./-]+", "`rules/credit.yaml`, a file in the flow's folder")
]


class People(Strict):
    """Who answers for what. `owner` runs the flow; the others fall back to the owner."""

    owner: Text
    data: Text | None = None
    rules: Text | None = None
    docs: Text | None = None


class Trigger(Strict):
    """What starts a run: an event of `contract`. `key` is the route, `dedupe` tells one business event from another."""

    contract: ContractName
    key: Text
    dedupe: tuple[Text, ...] = Field(min_length=1)


class Verify(Strict):
    """A question to the same system after a call, and what its answer must be. `within_ms`: how long to go on asking."""

    call: Call
    expect: Text
    within_ms: Duration = Field(default=10_000, alias="within")


class Approval(Strict):
    """A person's yes or no. `due_ms` counts from when it is asked; being late is shown, and nothing else happens."""

    group: Text
    due_ms: Duration | None = Field(default=None, alias="due")
    title: Text | None = None


class Step(Strict):
    """Either a call of an outside system or an approval."""

    id: StepId
    when: Text | None = None
    call: Call | None = None
    with_: Function | None = Field(default=None, alias="with")
    verify: Verify | None = None
    approval: Approval | None = None

    @field_validator("id")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value == REVIEW:
            raise Wrong("`review` is the name of the wait that a decision table asks for", "name the step otherwise")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Step:
        if (self.call is None) == (self.approval is None):
            raise Wrong(f"the step `{self.id}` must have either `call` or `approval`", "write `call: system.operation`")
        if self.approval and (self.with_ or self.verify):
            raise Wrong(f"the approval `{self.id}` can't have `with` or `verify`", "leave them out")
        return self

    @property
    def system(self) -> str | None:
        """The system that the step calls."""
        return self.call.partition(".")[0] if self.call else None

    @property
    def operation(self) -> str | None:
        """The operation that the step calls."""
        return self.call.partition(".")[2] if self.call else None


class Retry(Strict):
    """How a class of failure is tried again. What is not given is as recovery's defaults have it."""

    first_ms: Duration | None = Field(default=None, alias="from")
    cap_ms: Duration | None = Field(default=None, alias="to")
    times: int | None = Field(default=None, ge=0, le=1_000)
    max_age_ms: Duration | None = Field(default=None, alias="within")
    then: Literal["dead-letter", "discard"] | None = None


class Manual(Strict):
    """What the team does when the flow is down."""

    runbook: Inside
    within_ms: Duration | None = Field(default=None, alias="within")
    group: Text | None = None


class Expect(Strict):
    """So many events must come in any `per`, else the flow is silent. `hours` are UTC; outside of them none is expected."""

    at_least: int = Field(ge=1)
    per_ms: Duration = Field(alias="per", ge=60_000, le=24 * 3_600_000)
    hours: Annotated[str, _pattern(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-4]):[0-5]\d", '`"08:00-20:00"`')] | None = None


class RateAbove(Strict):
    """A share of the runs that ended in the last `over`."""

    above: float = Field(ge=0, le=1)
    over_ms: Duration = Field(default=300_000, alias="over", ge=10_000, le=3_600_000)


class AgeAbove(Strict):
    """An age."""

    above_ms: Duration = Field(alias="above")


class AlertWhen(Strict):
    """What the flow wants to be told of earlier, or later, than the deployment's settings say."""

    failed_rate: RateAbove | None = None
    oldest_dead_letter: AgeAbove | None = None


class FlowAlerts(Strict):
    """Who is told of the flow's alerts, and when. `to`: nobody named, so those of the deployment."""

    to: (
        Annotated[
            str, _pattern(r"slack:[a-z][a-z0-9-]*|mail:[^@\s,]+@[^@\s,]+", "`slack:billing` or `mail:ops@example.com`")
        ]
        | None
    ) = None
    when: AlertWhen = AlertWhen()


class Outcome(Strict):
    """What the flow is for, in a figure: the time until a step is done, or an amount that its runs are about.

    `until` is a step or `done`, the end of the run; `from` a field of the event that is a time (ms), else the run's begin.
    `amount` is a field of the event, `unit` the field that says in what: amounts of two units are never added. So many of
    the field make one of the unit as `scale` says: 100 for cents of which the unit is euros.
    """

    until: StepId | None = None
    since: Text | None = Field(default=None, alias="from")
    within_ms: Duration | None = Field(default=None, alias="within")
    amount: Text | None = None
    unit: Text | None = None
    scale: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _one_kind(self) -> Outcome:
        if (self.until is None) == (self.amount is None):
            raise Wrong("an outcome is either a time or an amount", "write `{until: step}` or `{amount: field}`")
        if self.amount and (self.since or self.within_ms is not None):
            raise Wrong("an amount can't have `from` or `within`", "leave them out")
        if self.until and (self.unit or self.scale != 1):
            raise Wrong("a time has no `unit` and no `scale`", "leave them out")
        return self


class FlowFile(Strict):
    """A flow file. Keys as in the design's `flows.md`; what this build does not execute is in `NOT_YET`."""

    flow: Name
    version: int = Field(ge=1)
    people: People
    purpose: Text
    review_ms: Duration | None = Field(default=None, alias="review")
    criticality: Literal["low", "high"] = "low"
    mode: Literal["act"] = "act"
    trigger: Trigger
    transform: Function
    request: ContractName | None = None
    decide: Inside | None = None
    steps: tuple[Step, ...] = Field(min_length=1)
    on_failure: tuple[Literal["manual"], ...] = Field(default=(), max_length=1)
    ordering: Literal["key", "none"] = "key"
    retry: dict[str, Retry] = Field(default_factory=dict)
    manual: Manual
    expect: Expect | None = None
    alerts: FlowAlerts = FlowAlerts()
    segments: tuple[Text, ...] = ()
    outcomes: dict[Name, Outcome] = Field(default_factory=dict)
    result: ContractName | None = None
    done: Function | None = None

    @field_validator("mode", "on_failure", mode="before")
    @classmethod
    def _not_yet(cls, value: Any) -> Any:
        if value == "observe":
            raise Wrong("this build does not execute `mode: observe` yet", "write `mode: act`, or leave it out")
        if isinstance(value, list) and "compensate" in value:
            raise Wrong("this build does not execute `compensate` yet", "write `on_failure: [manual]`, or leave it out")
        return value

    @model_validator(mode="after")
    def _whole(self) -> FlowFile:
        if (self.result is None) != (self.done is None):
            raise Wrong(
                "`result` and `done` belong together", "write both: `result: domain.event.v1`, `done: mapping:fn`"
            )
        ids = [step.id for step in self.steps]
        twice = sorted({each for each in ids if ids.count(each) > 1})
        if twice:
            raise Wrong(f"the step {', '.join(twice)} is there twice", "give each step a name of its own")
        return self


NOT_YET: tuple[Loc, ...] = (
    ("trigger", "sources"),
    ("schedule",),
    ("trigger", "schedule"),
    ("serialize",),
    ("rollout",),
    ("pilot",),
    ("steps", "*", "needs"),
    ("steps", "*", "flow"),
    ("steps", "*", "undo"),
    ("steps", "*", "wait"),
    ("steps", "*", "approval", "on_timeout"),
    ("steps", "*", "approval", "four_eyes"),
    ("steps", "*", "approval", "remind"),
    ("steps", "*", "approval", "form"),
    ("manual", "form"),
)
"""Keys that the design names and that this build refuses to accept silently; `*` stands for every item."""
