"""Decision: the real flow order-to-invoice, from a prepared event to an end, through people and failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.identity import partition_for, run_id
from handrail.message import Run
from handrail.service import Deployment
from handrail.testing.driver import StageDriver
from handrail.testing.memory import MemoryBroker
from handrail.traceparent import trace_id
from handrail_decision.bootstrap import plans

from handrail import envelope

FLOW = "order-to-invoice"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REVIEW = {"total_minor": 34_000_001}
REJECT = {"total_minor": 20_000_001, "account_balance_minor": -50_001}
INVOICE = {"invoice_id": "i-1", "reference": "7/1", "customer_id": "c1", "total_minor": 500, "currency": "EUR"}
RUN = Run(run_id(FLOW, {"order_id": "7", "revision": "1"}), FLOW, 1)


class Flowing:
    """The stage `order-to-invoice.decision`, what is sent to it and what comes of it."""

    def __init__(self, stage: StageDriver, contracts: Contracts, order: Callable[..., bytes], bodies: Any) -> None:
        self.stage, self.contracts, self.order, self.read = stage, contracts, order, bodies
        self.sent = 0

    def _send(self, contract: str, body: Mapping[str, Any], id: str | None = None, trace: str = TRACE) -> None:  # noqa: A002
        self.sent += 1
        value = self.contracts.encode(contract, body)
        self.stage.send(contract, "7", value, id=id or f"message {self.sent}", run=RUN, traceparent=trace)
        self.stage.drain()

    def prepared(self, **order: Any) -> None:
        event = self.order(**order)
        fields = self.contracts.decode(event)[1]
        request = {"reference": "7/1"} | {name: fields[name] for name in ("customer_id", "total_minor", "currency")}
        raw = self.contracts.encode("billing/invoice-request.v1", request)
        body = {"run": RUN.id, "flow": FLOW, "version": 1, "event": event, "request": raw}
        self._send("handrail/prepared.v1", body, "prepared")

    def outcome(self, status: str, id: str | None = None, **fields: Any) -> None:  # noqa: A002
        response = self.contracts.encode("billing/invoice.v1", INVOICE) if status in ("verified", "accepted") else None
        body = {
            "run": RUN.id,
            "flow": FLOW,
            "version": 1,
            "step": "invoice",
            "revision": 1,
            "status": status,
            "failure_class": None,
            "reason": None,
            "response": response,
            "attempts": 1,
            "started_at": 10,
            "ended_at": 20,
            "first_failure_at": None,
        }
        self._send("handrail/outcome.v1", body | fields, id)

    def failing(self, revision: int = 1) -> None:
        body = {"run": RUN.id, "flow": FLOW, "version": 1, "step": "invoice", "revision": revision,
                "failure_class": "transient", "reason": "billing answered 503", "attempts": 1, "at": 15}  # fmt: skip
        self._send("handrail/step-failing.v1", body, f"failing {revision}")

    def verdict(self, verdict: str, task: str, step: str = "review", trace: str = TRACE) -> None:
        body = {"run": RUN.id, "flow": FLOW, "version": 1, "task": task, "step": step, "verdict": verdict, "by": "ada",
                "reason": "because", "at": 30}  # fmt: skip
        self._send("handrail/human-decision.v1", body, trace=trace)

    @property
    def transitions(self) -> list[dict[str, Any]]:
        return sorted(self.read("runs"), key=lambda each: each["sequence"])

    @property
    def states(self) -> list[str]:
        return [each["state"] for each in self.transitions]

    @property
    def commands(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.read("action.billing")
        return found

    @property
    def tasks(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.read("tasks")
        return found

    @property
    def done(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.read(f"{FLOW}.done")
        return found


@pytest.fixture
def flow(
    deployment: Deployment, drive: Callable[..., StageDriver], contracts: Contracts, order: Any, bodies: Any
) -> Flowing:
    (plan,) = plans(deployment)
    return Flowing(drive(plan.spec), contracts, order, bodies)


def test_every_end_of_a_run_is_counted_from_nought(flow: Flowing) -> None:
    """Else Prometheus takes the first failed runs after a start for none."""
    counters = flow.stage.stage.counters
    ends = {name for name in counters if name.startswith("runs.")}
    assert "runs.failed" in ends
    flow.prepared()
    flow.outcome("verified")
    assert counters["runs.done"] == 1
    assert {name for name in counters if name.startswith("runs.")} == ends


def test_an_accepted_order_becomes_a_command(flow: Flowing, broker: MemoryBroker) -> None:
    flow.prepared()
    (command,) = flow.commands
    assert (command["run"], command["route"], command["step"], command["revision"]) == (RUN.id, "7", "invoice", 1)
    assert (command["system"], command["operation"]) == ("billing", "create-invoice")
    assert flow.contracts.decode(command["request"])[1]["total_minor"] == 500
    (record,) = broker.records("action.billing")
    assert record.partition == partition_for("7", 2)
    assert envelope.read_internal(record.headers).run == RUN
    assert flow.states == ["prepared", "decided", "acting"]


def test_a_verified_outcome_ends_the_run_and_tells_everyone_by_contract(flow: Flowing, broker: MemoryBroker) -> None:
    flow.prepared()
    flow.outcome("verified")
    (done,) = flow.done
    assert done == {"order_id": "7", "revision": 1, "total_minor": 500, "currency": "EUR", "invoice_id": "i-1"}
    headers = dict(broker.records(f"{FLOW}.done")[0].headers)
    assert headers["ce_type"] == b"orders/order-invoiced.v1"
    assert headers["ce_subject"] == b"7"
    assert "hr" not in headers, "what is internal stays inside"
    assert flow.states[-1] == "done"


def test_a_rejected_order_ends_at_once(flow: Flowing) -> None:
    flow.prepared(**REJECT)
    assert flow.states == ["prepared", "decided", "rejected"]
    assert (flow.commands, flow.tasks, flow.done) == ([], [], [])
    assert "owes more than" in flow.transitions[-1]["reason"]


def test_a_large_order_becomes_a_task_and_nothing_is_called(flow: Flowing) -> None:
    flow.prepared(**REVIEW)
    (task,) = flow.tasks
    assert (task["kind"], task["state"], task["group"], task["step"]) == ("approval", "open", "credit", "review")
    assert task["due_at"] is not None
    assert flow.commands == []
    assert flow.states[-1] == "waiting"


def test_an_approval_lets_the_run_go_on(flow: Flowing) -> None:
    flow.prepared(**REVIEW)
    flow.verdict("approve", flow.tasks[0]["task"])
    assert len(flow.commands) == 1
    assert [task["state"] for task in flow.tasks] == ["open", "approved"]
    assert flow.states[-2:] == ["waiting", "acting"]
    assert "ada" in [each["actor"] for each in flow.transitions]


def test_a_no_ends_the_run_as_rejected(flow: Flowing) -> None:
    flow.prepared(**REVIEW)
    flow.verdict("reject", flow.tasks[0]["task"])
    assert flow.states[-1] == "rejected"
    assert (flow.transitions[-1]["actor"], flow.transitions[-1]["reason"]) == ("ada", "because")
    assert (flow.commands, flow.done) == ([], [])


def test_what_is_done_by_hand_gives_the_same_contracted_event(flow: Flowing, broker: MemoryBroker) -> None:
    flow.prepared(**REVIEW)
    flow.verdict("done", flow.tasks[0]["task"])
    assert flow.states[-1] == "done-by-hand"
    (done,) = flow.done
    assert (done["order_id"], done["total_minor"], done["invoice_id"]) == ("7", 34_000_001, None)
    assert dict(broker.records(f"{FLOW}.done")[0].headers)["ce_type"] == b"orders/order-invoiced.v1"
    assert flow.commands == [], "a run done by hand is never done again by a machine"


def test_an_unknown_outcome_goes_to_a_person_and_stays_with_them(flow: Flowing) -> None:
    flow.prepared()
    flow.outcome("unknown", failure_class="unknown_outcome", reason="cut off")
    (task,) = flow.tasks
    assert (task["kind"], task["state"], task["reason"]) == ("manual", "open", "cut off")
    assert flow.states[-1] == "manual"
    flow.outcome("verified", id="much later")
    assert flow.states[-1] == "manual", "the outcome is known already"
    flow.verdict("done", task["task"], "invoice")
    assert flow.states[-1] == "done-by-hand"
    assert len(flow.commands) == 1
    assert len(flow.done) == 1


def test_a_step_that_begins_to_fail_is_told_and_its_outcome_still_ends_the_run(flow: Flowing) -> None:
    flow.prepared()
    flow.failing()
    flow.failing()  # the same message again
    assert flow.states == ["prepared", "decided", "acting", "acting"]
    told = flow.transitions[-1]
    assert (told["event"], told["at"], told["first_failure_at"], told["failure_class"]) == ("failing", 15, 15, None)
    assert told["reason"] == "transient: billing answered 503"
    assert (len(flow.commands), flow.tasks, flow.stage.letters()) == (1, [], [])
    flow.outcome("verified", attempts=2, first_failure_at=15)
    assert flow.states[-1] == "done"


def test_a_failed_outcome_is_a_dead_letter_of_its_step_and_run(flow: Flowing) -> None:
    flow.prepared()
    flow.outcome("failed", failure_class="business", reason="no such customer", attempts=3, first_failure_at=15)
    (letter,) = flow.stage.letters()
    assert (letter["run"], letter["step"], letter["route"]) == (RUN.id, "invoice", "7")
    assert (letter["failure_class"], letter["message"]) == ("business", "no such customer")
    assert (letter["attempts"], letter["first_failed_at"]) == (3, 15)
    assert letter["trace"] == TRACE.split("-")[1]
    assert flow.states[-1] == "failed"
    assert flow.transitions[-1]["first_failure_at"] == 15


def test_the_replay_of_a_failed_outcome_acts_again_with_the_next_revision_and_may_fail_again(flow: Flowing) -> None:
    flow.prepared()
    flow.outcome("failed", failure_class="business", reason="no", first_failure_at=15)
    flow.stage.clock.advance(3_600_000)
    flow.stage.replay(flow.stage.letters()[0])
    flow.stage.drain()
    assert flow.transitions[-1]["at"] == flow.stage.clock.now(), "the replay is told at its own time"
    assert [command["revision"] for command in flow.commands] == [1, 2]
    assert flow.commands[0]["request"] == flow.commands[1]["request"]
    assert flow.states[-1] == "acting"
    (report,) = flow.read("recovery.letters.replay")
    assert (report["letter"], report["order"]) == (flow.stage.letters()[0]["letter"], "resolved")
    flow.outcome("failed", revision=2, failure_class="business", reason="still no")
    first, second = flow.stage.letters()
    assert first["letter"] != second["letter"], "another outcome is another letter"
    flow.stage.replay(second)
    flow.stage.drain()
    flow.outcome("verified", revision=3)
    assert flow.states[-1] == "done"
    assert len(flow.done) == 1


def test_replaying_one_letter_twice_acts_once(flow: Flowing) -> None:
    flow.prepared()
    flow.outcome("failed", failure_class="business", reason="no")
    for _ in range(2):
        flow.stage.replay(flow.stage.letters()[0])
        flow.stage.drain()
    assert [command["revision"] for command in flow.commands] == [1, 2]


def test_duplicates_and_stale_outcomes_move_nothing(flow: Flowing) -> None:
    flow.prepared()
    flow.prepared()
    flow.outcome("failed", id="one", failure_class="business", reason="no")
    flow.outcome("failed", id="one", failure_class="business", reason="no")
    flow.stage.replay(flow.stage.letters()[0])
    flow.stage.drain()
    before = flow.states
    flow.outcome("verified", id="late, of revision 1")
    flow.outcome("verified", id="of another step", step="nonsense")
    flow.outcome("failed", id="of the future", revision=7, failure_class="business", reason="no")
    assert flow.states == before
    assert len(flow.stage.letters()) == 1
    flow.outcome("verified", id="two", revision=2)
    flow.outcome("verified", id="two again under another id", revision=2)
    assert len(flow.done) == 1


def test_verdicts_on_closed_or_foreign_tasks_move_nothing(flow: Flowing) -> None:
    flow.prepared(**REVIEW)
    flow.verdict("approve", "00000000-0000-8000-8000-000000000000")
    assert flow.states[-1] == "waiting"
    task = flow.tasks[0]["task"]
    flow.verdict("reject", task)
    flow.verdict("approve", task)
    assert flow.states[-1] == "rejected"
    assert flow.commands == []


def test_an_outcome_or_a_verdict_of_a_run_that_nobody_knows_moves_nothing(flow: Flowing) -> None:
    flow.outcome("verified")
    flow.outcome("failed", failure_class="business", reason="no")
    flow.verdict("done", "00000000-0000-8000-8000-000000000000")
    assert (flow.states, flow.stage.letters(), flow.done) == ([], [], [])


def test_transitions_are_numbered_without_gaps_and_carry_dedupe_values_and_trace(flow: Flowing) -> None:
    flow.prepared(**REVIEW)
    flow.verdict("approve", flow.tasks[0]["task"])
    flow.outcome("failed", failure_class="business", reason="no")
    flow.stage.replay(flow.stage.letters()[0])
    flow.stage.drain()
    flow.outcome("verified", revision=2)
    found = flow.transitions
    assert [each["sequence"] for each in found] == list(range(1, len(found) + 1))
    for before, after in pairwise(found):
        assert after["previous"] == before["state"]
    assert {each["trace"] for each in found} == {TRACE.split("-")[1]}
    assert {tuple(sorted(each["dedupe"].items())) for each in found} == {(("order_id", "7"), ("revision", "1"))}
    assert {each["route"] for each in found} == {"7"}


def test_every_record_on_runs_and_every_command_has_an_id_of_its_own(flow: Flowing, broker: MemoryBroker) -> None:
    """Also the replay of an outcome, which is the same message handled twice."""
    flow.prepared()
    flow.outcome("failed", failure_class="business", reason="no")
    flow.stage.replay(flow.stage.letters()[0])
    flow.stage.drain()
    flow.outcome("verified", revision=2)
    for topic in ("runs", "action.billing"):
        ids = [envelope.read_internal(record.headers).id for record in broker.records(topic)]
        assert len(ids) == len(set(ids))


def test_a_crash_in_the_middle_loses_nothing(flow: Flowing, drive: Any) -> None:
    flow.prepared(**REVIEW)
    flow.stage.crash()
    flow.stage = drive(flow.stage.spec, "another disk")
    flow.verdict("approve", flow.tasks[0]["task"])
    flow.stage.crash()
    flow.stage = drive(flow.stage.spec, "a third disk")
    flow.outcome("verified")
    assert flow.states[-1] == "done"
    assert [each["sequence"] for each in flow.transitions] == list(range(1, len(flow.transitions) + 1))


def test_an_unknown_version_pauses_its_partition(flow: Flowing, contracts: Contracts) -> None:
    body = {"run": RUN.id, "flow": FLOW, "version": 9, "event": b"", "request": b""}
    value = contracts.encode("handrail/prepared.v1", body)
    flow.stage.send("handrail/prepared.v1", "7", value, id="x", run=Run(RUN.id, FLOW, 9))
    flow.stage.drain()
    assert not flow.stage.stage.ready()
    assert flow.stage.letters() == []


def test_a_prepared_event_whose_bytes_do_not_decode_is_a_dead_letter(flow: Flowing, contracts: Contracts) -> None:
    body = {"run": RUN.id, "flow": FLOW, "version": 1, "event": b"torn", "request": b""}
    flow.stage.send("handrail/prepared.v1", "7", contracts.encode("handrail/prepared.v1", body), id="x", run=RUN)
    flow.stage.drain()
    (letter,) = flow.stage.letters()
    assert (letter["failure_class"], letter["run"]) == ("poison", RUN.id)
    assert flow.states == []


def test_what_follows_a_person_s_decision_stays_in_the_trace_of_the_run(flow: Flowing, broker: MemoryBroker) -> None:
    flow.prepared(**REVIEW)
    flow.verdict("approve", flow.tasks[0]["task"], trace="00-" + "ab" * 16 + "-" + "cd" * 8 + "-01")
    assert {each["trace"] for each in flow.transitions} == {trace_id(TRACE)}
    (command,) = broker.records("action.billing")
    assert trace_id(envelope.read_internal(command.headers).traceparent) == trace_id(TRACE)


def test_a_decision_about_a_run_that_nobody_knows_keeps_the_trace_of_its_order(
    flow: Flowing, broker: MemoryBroker
) -> None:
    flow.verdict("approve", "no-such-task", trace="00-" + "ab" * 16 + "-" + "cd" * 8 + "-01")
    assert (flow.transitions, broker.records("action.billing")) == ([], [])
