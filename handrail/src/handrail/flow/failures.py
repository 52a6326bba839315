"""What can go wrong at each step of a flow, and what happens then: a table without an empty cell."""

from __future__ import annotations

from dataclasses import dataclass

from handrail.flow.bound import Flow
from handrail.flow.duration import format_duration
from handrail.flow.model import REVIEW, Step
from handrail.recovery import Backoff, ErrorClass, Policy

KEY = "one effect: honours idempotency keys"
ASKED = "one effect: can be asked conclusively"
ONCE = "one unattended attempt; an unknown outcome goes to a person"
QUESTION = "a question: it has no effect, so it may be asked again"
PERSON = "a person decides, once"

# Not of a step: poison ends where bytes are decoded, infra runs again by itself, critical stops the process.
_ELSEWHERE = frozenset({ErrorClass.POISON, ErrorClass.INFRA, ErrorClass.CRITICAL})


@dataclass(frozen=True, slots=True)
class Answer:
    """What happens to one class of failure at one place. `what` is empty when the flow has no answer."""

    place: str
    error_class: str
    what: str


def promise(flow: Flow, step: Step) -> str:
    """How often a step can have its effect at the outside (guarantees.md, 2)."""
    if step.call is None:
        return PERSON
    system, operation = flow.operation(step)
    if operation.safe:
        return QUESTION
    if system.idempotency == "honoured":
        return KEY
    return ASKED if system.conclusive and step.verify else ONCE


def failures(flow: Flow) -> list[Answer]:
    """Every place of a flow, with every class of failure that can come up there."""
    found = [
        Answer("ingest", "poison", "dead letter with the raw bytes"),
        Answer("ingest", "contract", "dead letter with the field and the reason"),
        Answer("transform", "contract", "dead letter with the field and the reason"),
        Answer("transform", "bug", _tried(flow.policy, ErrorClass.BUG, "dead letter")),
    ]
    if flow.table:
        found.append(Answer("decision", "contract", "dead letter with the field and the reason"))
        found.append(Answer("decision", "bug", _tried(flow.policy, ErrorClass.BUG, "dead letter")))
        if "reject" in flow.table.routes:
            found.append(Answer("decision", "business", "the run ends as rejected, with the row's reason"))
        if "review" in flow.table.routes and not flow.reviews_itself:
            found.append(Answer(REVIEW, "nobody answers", "the task stays open and is shown as overdue"))
    for step in flow.steps:
        found.extend(_of_step(flow, step))
    return found


def unanswered(flow: Flow) -> list[Answer]:
    """The empty cells."""
    return [answer for answer in failures(flow) if not answer.what]


def _of_step(flow: Flow, step: Step) -> list[Answer]:
    if step.call is None:
        return [
            Answer(step.id, "nobody answers", "the task stays open and is shown as overdue"),
            Answer(step.id, "business", "a no ends the run as rejected, with the person's reason"),
        ]
    last = _last_resort(flow)
    answers: dict[ErrorClass, str] = {
        ErrorClass.TRANSIENT: _tried(flow.policy, ErrorClass.TRANSIENT, last),
        ErrorClass.RATE_LIMITED: "waits as long as the system says, no attempt counted; over 24h: " + last,
        ErrorClass.OUTAGE: _tried(flow.policy, ErrorClass.OUTAGE, last),
        ErrorClass.UNKNOWN_OUTCOME: _unknown(flow, step, last),
        ErrorClass.BUSINESS: last,
        ErrorClass.CONTRACT: last,
        ErrorClass.CONFIG: last,
        ErrorClass.BUG: _tried(flow.policy, ErrorClass.BUG, last),
    }
    return [Answer(step.id, each.value, answers.get(each, "")) for each in ErrorClass if each not in _ELSEWHERE]


def _last_resort(flow: Flow) -> str:
    if flow.hands_over:
        return f"a task for {flow.manual.group or flow.people.owner} by {flow.manual.runbook}"
    return "dead letter for " + flow.people.owner


def _unknown(flow: Flow, step: Step, last: str) -> str:
    task = f"a task for {flow.manual.group or flow.people.owner} by {flow.manual.runbook}"
    kind = promise(flow, step)
    if kind == QUESTION:
        return _tried(flow.policy, ErrorClass.TRANSIENT, last)
    if step.verify is None:
        return f"the same key again, then {task}" if kind == KEY else task
    within = format_duration(step.verify.within_ms)
    asked = f"{step.verify.call} is asked for up to {within}"
    if kind == ONCE:
        return f"{asked}; seen: goes on; not seen: {task}"
    return f"{asked}; seen: goes on; surely not there: tried again; nobody knows: {task}"


def _tried(policy: Policy, error_class: ErrorClass, last: str) -> str:
    backoff: Backoff = policy.backoff(error_class)
    if backoff.times == 0:
        return last
    pace = f"from {format_duration(backoff.first_ms)} to {format_duration(backoff.cap_ms)} apart"
    if backoff.times is None and backoff.max_age_ms is None:
        return f"tried again until it works, {pace}; nothing is dropped"
    times = "again and again" if backoff.times is None else f"{backoff.times} more times"
    return f"tried {times}, {pace}; then {'dropped with a reason' if backoff.discard else last}"
