"""The run engine, one story at a time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.errors import Failure
from handrail.flow import (
    Advance,
    Flow,
    Flows,
    HumanVerdict,
    Prepared,
    RunState,
    StepFailing,
    StepOutcome,
    Values,
    advance,
)
from handrail.flow.tasks import task_id

ROOT = Path(__file__).parents[2]
ORDER = {
    "order_id": "4711",
    "revision": 1,
    "customer_id": "370",
    "customer_name": None,
    "segment": "BUILDING",
    "account_balance_minor": 100,
    "total_minor": 1_000,
    "currency": "EUR",
    "ordered_on": "1996-01-02",
}
REVIEWED = {"total_minor": 50_000_000}
REJECTED = {"total_minor": 50_000_000, "account_balance_minor": -99_000}
RUN = "8f2d3c4b-0000-8000-8000-000000000001"

STEPS = """
steps:
  - id: invoice
    call: billing.create-invoice
    verify: {call: billing.get-invoice, expect: response.total_minor == request.total_minor}
  - {id: sign, when: event.total_minor > 100, approval: {group: sales, due: 4h, title: "Sign it?"}}
  - id: copy
    when: responses.invoice.total_minor > 500
    call: billing.create-invoice
    with: mapping:to_copy
    verify: {call: billing.get-invoice, expect: response.total_minor == request.total_minor}
"""
TO_COPY = """

def to_copy(event, request, responses):
    return {**request, "reference": responses["invoice"]["invoice_id"]}
"""


@pytest.fixture(scope="module")
def contracts() -> Contracts:
    return Contracts.load(ROOT / "contracts")


@pytest.fixture(scope="module")
def flow(contracts: Contracts) -> Flow:
    """One step, verified, behind the credit rules."""
    return Flows.load(ROOT / "flows", ROOT / "systems", contracts).newest("order-to-invoice")


def variant(contracts: Contracts, folder: Path, old: str, new: str) -> Flow:
    """The flow with a part of its file replaced."""
    flows = folder / "flows"
    shutil.copytree(ROOT / "flows", flows, ignore=shutil.ignore_patterns("flows.lock"))
    at = flows / "order-to-invoice" / "v1"
    text = (at / "flow.yaml").read_text()
    assert old in text
    (at / "flow.yaml").write_text(text.replace(old, new))
    (at / "mapping.py").write_text((at / "mapping.py").read_text() + TO_COPY)
    return Flows.load(flows, ROOT / "systems", contracts).newest("order-to-invoice")


@pytest.fixture(scope="module")
def three_steps(contracts: Contracts, tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """A call, an approval, and a second call with a body of its own."""
    text = (ROOT / "flows/order-to-invoice/v1/flow.yaml").read_text()
    old = text[text.index("steps:") : text.index("retry:")]
    return variant(contracts, tmp_path_factory.mktemp("three"), old, STEPS.lstrip())


@pytest.fixture(scope="module")
def by_hand(contracts: Contracts, tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """A flow whose failures go to a person."""
    return variant(contracts, tmp_path_factory.mktemp("hand"), "manual:", "on_failure: [manual]\nmanual:")


class Runner:
    """Feeds events to a run and keeps what came out."""

    def __init__(self, flow: Flow, contracts: Contracts, **order: Any) -> None:
        self.flow = flow
        self.contracts = contracts
        self.event = ORDER | order
        self.request = flow.mapping.transform(self.event)
        self.state: RunState | None = None
        self.at = 1_000

    def prepare(self) -> Advance:
        event = self.contracts.encode("orders/order-accepted.v1", self.event)
        request = self.contracts.encode(self.flow.request_contract, self.request)
        return self.feed(Prepared(RUN, "4711", event, request, {"order_id": "4711", "revision": "1"}, self._tick()))

    def outcome(self, status: str = "verified", step: str = "invoice", revision: int = 1, **more: Any) -> Advance:
        answer = {**self.request, "invoice_id": f"INV-{step}"}
        response = self.contracts.encode("billing/invoice.v1", answer) if status in ("verified", "accepted") else None
        told: dict[str, Any] = {
            "failure_class": "business" if status == "failed" else None,
            "reason": "no such customer" if status == "failed" else None,
            "attempts": 1,
            "first_failure_at": None,
            "replay": False,
        } | more
        return self.feed(StepOutcome(step, revision, status, response=response, at=self._tick(), **told))  # type: ignore[arg-type]

    def failing(self, step: str = "invoice", revision: int = 1) -> Advance:
        return self.feed(StepFailing(step, revision, "transient", "billing answered 503", 1, self._tick()))

    def verdict(self, verdict: str, task: str | None = None, step: str = "review") -> Advance:
        task = task or (self.state.task if self.state else None) or "none"
        return self.feed(HumanVerdict(task, step, verdict, "ann", "because", self._tick()))  # type: ignore[arg-type]

    def feed(self, event: Any) -> Advance:
        responses = dict(self.state.responses) if self.state else {}
        if isinstance(event, StepOutcome) and event.response:
            responses[event.step] = event.response
        decoded = {step: self.contracts.decode(raw)[1] for step, raw in responses.items()}
        moved = advance(self.flow, self.state, event, Values(self.event, self.request, decoded))
        for transition in moved.transitions:
            self.contracts.encode("handrail/run-transition.v3", transition)
        for command in moved.commands:
            self.contracts.encode("handrail/command.v1", command)
        for task in moved.tasks:
            self.contracts.encode("handrail/task.v1", task)
        if moved.done is not None:
            self.contracts.encode(self.flow.result or "", moved.done)
        self.state = moved.state
        return moved

    def _tick(self) -> int:
        self.at += 1_000
        return self.at


def told(moved: Advance) -> list[tuple[str | None, str, str]]:
    return [(each["previous"], each["state"], each["event"]) for each in moved.transitions]


def test_an_accepted_order_becomes_one_command(flow: Flow, contracts: Contracts) -> None:
    moved = Runner(flow, contracts).prepare()
    assert told(moved) == [
        (None, "prepared", "prepared"),
        ("prepared", "decided", "decision"),
        ("decided", "acting", "next"),
    ]
    (command,) = moved.commands
    assert (command["step"], command["revision"]) == ("invoice", 1)
    assert (command["system"], command["operation"]) == ("billing", "create-invoice")
    assert moved.state is not None
    assert command["request"] == moved.state.request
    assert moved.tasks == ()
    assert [each["segments"] for each in moved.transitions] == [{"segment": "BUILDING"}, {}, {}]


TIME = {"name": "time-to-invoice", "amount": None, "unit": None, "step": "invoice", "since": 2_000, "within_ms": 60_000}
AMOUNT = {"name": "value-at-risk", "amount": 10.0, "unit": "EUR", "step": None, "since": None, "within_ms": None}


def test_the_first_transition_says_what_the_run_is_about(flow: Flow, contracts: Contracts) -> None:
    moved = Runner(flow, contracts).prepare()
    assert [each["outcomes"] for each in moved.transitions] == [[TIME, AMOUNT], [], []]


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("{until: done}", TIME | {"step": None, "within_ms": None}),
        ("{until: invoice, from: account_balance_minor}", TIME | {"since": 100, "within_ms": None}),
        ("{amount: revision}", AMOUNT | {"amount": 1.0, "unit": None}),
        ("{amount: total_minor, unit: customer_name}", AMOUNT | {"amount": 1_000.0, "unit": None}),
    ],
)
def test_an_outcome_is_what_the_flow_declares(
    contracts: Contracts, tmp_path: Path, declared: str, expected: dict[str, Any]
) -> None:
    flow = variant(contracts, tmp_path, "time-to-invoice: {until: invoice, within: 1m}", f"it: {declared}")
    told = Runner(flow, contracts).prepare().transitions[0]["outcomes"]
    assert told == [expected | {"name": "it"}, AMOUNT]


@pytest.mark.parametrize("amount", [None, float("nan"), float("inf"), 2**53 + 1, -1.7e308])
def test_an_outcome_that_the_event_does_not_tell_is_left_out_and_stops_nothing(flow: Flow, amount: Any) -> None:
    assert flow.outcomes(ORDER | {"total_minor": amount}, 2_000) == [TIME]


def test_a_time_that_can_be_none_is_left_out(contracts: Contracts, tmp_path: Path) -> None:
    """The field holds seconds, or nonsense."""
    declared = "{until: invoice, from: account_balance_minor}"
    flow = variant(contracts, tmp_path, "{until: invoice, within: 1m}", declared)
    now = 1_767_225_600_000
    for since, told in ((now - 5, 2), (now // 1_000, 1), (-(2**63), 1)):
        assert len(flow.outcomes(ORDER | {"account_balance_minor": since}, now)) == told


def test_a_verified_step_ends_the_run_with_its_result(flow: Flow, contracts: Contracts) -> None:
    run = Runner(flow, contracts)
    run.prepare()
    moved = run.outcome(attempts=3, first_failure_at=2_500)
    assert told(moved) == [("acting", "done", "outcome")]
    assert moved.transitions[0]["attempts"] == 3
    assert moved.transitions[0]["first_failure_at"] == 2_500
    assert moved.done == {
        "order_id": "4711",
        "revision": 1,
        "total_minor": 1_000,
        "currency": "EUR",
        "invoice_id": "INV-invoice",
    }


def test_a_rejected_order_calls_nobody(flow: Flow, contracts: Contracts) -> None:
    moved = Runner(flow, contracts, **REJECTED).prepare()
    assert [each["state"] for each in moved.transitions] == ["prepared", "decided", "rejected"]
    assert "owes more" in moved.transitions[-1]["reason"]
    assert (moved.commands, moved.tasks, moved.done, moved.give_up) == ((), (), None, None)


def test_a_review_waits_for_the_group_that_the_row_names(flow: Flow, contracts: Contracts) -> None:
    run = Runner(flow, contracts, **REVIEWED)
    moved = run.prepare()
    (task,) = moved.tasks
    assert moved.transitions[-1]["state"] == "waiting"
    assert moved.transitions[-1]["task"] == task["task"] == task_id(RUN, "review", 1)
    assert (task["kind"], task["state"], task["group"]) == ("approval", "open", "credit")
    assert task["due_at"] == run.at + 4 * 3_600_000
    assert json.loads(task["context"])["decision"]["row"] == "very-large"
    assert moved.commands == ()


def test_an_approved_review_goes_on(flow: Flow, contracts: Contracts) -> None:
    run = Runner(flow, contracts, **REVIEWED)
    opened = run.prepare().tasks[0]
    moved = run.verdict("approve")
    assert told(moved) == [("waiting", "waiting", "human-decision"), ("waiting", "acting", "next")]
    assert (moved.transitions[0]["actor"], moved.transitions[0]["reason"]) == ("ann", "because")
    assert moved.tasks == (opened | {"state": "approved", "decided_by": "ann", "reason": "because", "at": run.at},)
    assert len(moved.commands) == 1
    assert run.outcome().done is not None


@pytest.mark.parametrize(("verdict", "end", "result"), [("reject", "rejected", False), ("done", "done-by-hand", True)])
def test_a_review_may_end_the_run(flow: Flow, contracts: Contracts, verdict: str, end: str, result: bool) -> None:
    run = Runner(flow, contracts, **REVIEWED)
    run.prepare()
    moved = run.verdict(verdict)
    assert moved.state is not None
    assert (moved.state.state, moved.state.task) == (end, None)
    assert (moved.done is not None) is result
    assert moved.commands == ()


def test_finished_by_hand_gives_the_same_event_without_the_number(flow: Flow, contracts: Contracts) -> None:
    run = Runner(flow, contracts)
    run.prepare()
    moved = run.outcome("unknown", failure_class="unknown_outcome", reason="the connection was lost")
    (task,) = moved.tasks
    assert (task["kind"], task["group"], task["state"]) == ("manual", "billing-ops@example.com", "open")
    assert task["runbook"] == "order-to-invoice/v1/runbook.md"
    assert json.loads(task["context"])["failure"]["reason"] == "the connection was lost"
    assert moved.give_up is None
    moved = run.verdict("done", step="invoice")
    assert told(moved) == [("manual", "done-by-hand", "human-decision")]
    assert moved.done is not None
    assert moved.done["invoice_id"] is None


def test_manual_work_is_not_answered_by_a_yes(flow: Flow, contracts: Contracts) -> None:
    run = Runner(flow, contracts)
    run.prepare()
    run.outcome("unknown")
    moved = run.verdict("approve", step="invoice")
    assert moved.ignored is not None
    assert moved.state == run.state


def test_manual_work_that_is_given_up_fails_and_no_replay_acts_again(flow: Flow, contracts: Contracts) -> None:
    run = Runner(flow, contracts)
    run.prepare()
    run.outcome("unknown")
    moved = run.verdict("reject", step="invoice")
    assert moved.state is not None
    assert moved.state.state == "failed"
    assert run.outcome("unknown", replay=True).ignored is not None


def test_a_failed_step_gives_up_with_its_class(flow: Flow, contracts: Contracts) -> None:
    run = Runner(flow, contracts)
    run.prepare()
    moved = run.outcome("failed", attempts=7, first_failure_at=2_100)
    assert moved.give_up is not None
    assert (moved.give_up.error_class, moved.give_up.reason) == ("business", "no such customer")
    assert (moved.give_up.step, moved.give_up.attempts, moved.give_up.first_failed_at) == ("invoice", 7, 2_100)
    assert moved.transitions[-1]["failure_class"] == "business"
    assert moved.state is not None
    assert moved.state.ended


def test_a_replayed_dead_letter_acts_again_with_the_next_revision(flow: Flow, contracts: Contracts) -> None:
    run = Runner(flow, contracts)
    run.prepare()
    run.outcome("failed", first_failure_at=2_100)
    moved = run.outcome("failed", replay=True)
    assert told(moved) == [("failed", "acting", "replay")]
    assert moved.commands[0]["revision"] == 2
    assert run.outcome("failed", replay=True).ignored is not None
    assert run.outcome(revision=1).ignored is not None
    moved = run.outcome(revision=2)
    assert moved.done is not None
    assert moved.transitions[0]["first_failure_at"] == 2_100


def test_a_step_that_begins_to_fail_goes_on_and_tells_since_when(flow: Flow, contracts: Contracts) -> None:
    run = Runner(flow, contracts)
    run.prepare()
    moved = run.failing()
    since = run.at
    assert told(moved) == [("acting", "acting", "failing")]
    (one,) = moved.transitions
    assert (one["reason"], one["attempts"]) == ("transient: billing answered 503", 1)
    assert (one["first_failure_at"], one["at"]) == (since, since)
    assert one["failure_class"] is None, "the run has not failed by it"
    assert (moved.commands, moved.tasks, moved.done, moved.give_up) == ((), (), None, None)
    moved = run.outcome(attempts=2)
    assert moved.transitions[0]["first_failure_at"] == since
    assert moved.state is not None
    assert moved.state.first_failure_at is None


def test_a_failure_that_is_told_late_or_of_another_revision_moves_nothing(flow: Flow, contracts: Contracts) -> None:
    run = Runner(flow, contracts)
    assert run.failing().ignored == "there is no such run"
    run.prepare()
    assert run.failing(revision=2).ignored is not None
    assert run.failing(step="copy").ignored is not None
    run.outcome("failed", first_failure_at=2_100)
    assert run.failing().ignored is not None
    run.outcome("failed", replay=True)
    assert run.failing().ignored is not None, "it is of the revision before"
    moved = run.failing(revision=2)
    assert moved.transitions[0]["first_failure_at"] == 2_100, "it has failed since the first revision did"


def test_a_failure_may_go_to_a_person_instead_of_the_dead_letters(by_hand: Flow, contracts: Contracts) -> None:
    run = Runner(by_hand, contracts)
    run.prepare()
    moved = run.outcome("failed")
    assert moved.give_up is None
    assert moved.state is not None
    assert moved.state.state == "manual"
    assert moved.tasks[0]["reason"] == "no such customer"
    assert run.verdict("done", step="invoice").done is not None


@pytest.mark.parametrize("status", ["verified", "accepted", "failed", "unknown"])
def test_what_comes_twice_is_ignored_with_a_reason(flow: Flow, contracts: Contracts, status: str) -> None:
    run = Runner(flow, contracts)
    run.prepare()
    assert "duplicate" in (run.prepare().ignored or "")
    run.outcome(status)
    before = run.state
    again = run.outcome(status)
    assert again.ignored
    assert again == Advance(before, ignored=again.ignored)


def test_a_verdict_on_a_closed_or_other_task_is_ignored(flow: Flow, contracts: Contracts) -> None:
    run = Runner(flow, contracts, **REVIEWED)
    task = run.prepare().tasks[0]["task"]
    assert run.verdict("approve", task="another").ignored
    run.verdict("approve")
    assert run.verdict("reject", task=task).ignored


def test_events_of_a_run_that_nobody_knows_are_ignored(flow: Flow, contracts: Contracts) -> None:
    assert Runner(flow, contracts).outcome().ignored == "there is no such run"
    assert Runner(flow, contracts).verdict("done").ignored == "there is no such run"


def test_steps_come_in_order_with_approval_and_a_body_of_their_own(three_steps: Flow, contracts: Contracts) -> None:
    run = Runner(three_steps, contracts)
    run.prepare()
    moved = run.outcome()
    assert [(each["state"], each["step"]) for each in moved.transitions] == [
        ("acting", "invoice"),
        ("waiting", "sign"),
    ]
    assert (moved.tasks[0]["group"], moved.tasks[0]["title"]) == ("sales", "Sign it?")
    moved = run.verdict("approve", step="sign")
    (command,) = moved.commands
    assert command["step"] == "copy"
    assert contracts.decode(command["request"])[1]["reference"] == "INV-invoice"
    assert run.outcome(step="invoice").ignored
    assert run.outcome(step="copy").done is not None


def test_a_step_that_is_not_wanted_is_passed_over_and_told_of(three_steps: Flow, contracts: Contracts) -> None:
    run = Runner(three_steps, contracts, total_minor=50)
    run.prepare()
    moved = run.outcome()
    assert [(each["event"], each["step"]) for each in moved.transitions] == [
        ("outcome", "invoice"),
        ("skipped", "sign"),
        ("skipped", "copy"),
        ("next", "copy"),
    ]
    assert moved.state is not None
    assert moved.state.state == "done"
    assert moved.done is not None


def test_a_rule_that_the_data_can_not_answer_is_a_failure_and_nothing_has_happened(
    three_steps: Flow, contracts: Contracts
) -> None:
    run = Runner(three_steps, contracts)
    run.prepare()
    run.outcome()
    before = run.state
    assert before is not None
    run.state = replace(before, responses={})
    with pytest.raises(Failure, match=r"responses\.invoice\.total_minor") as caught:
        run.verdict("approve", step="sign")
    assert caught.value.error_class == "contract"


def test_a_flow_of_another_version_is_refused(flow: Flow, contracts: Contracts) -> None:
    run = Runner(flow, contracts)
    run.prepare()
    assert run.state is not None
    run.state = replace(run.state, version=2)
    with pytest.raises(ValueError, match="v2"):
        run.outcome()
