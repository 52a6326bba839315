"""The run engine under any order of fresh, stale and duplicated events."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from handrail.contracts import Contracts
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
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

ROOT = Path(__file__).parents[2]
RUN = "8f2d3c4b-0000-8000-8000-000000000001"
ENDS = {"done", "rejected", "failed", "done-by-hand"}
STEPS = """steps:
  - {id: sign, when: event.revision > 1, approval: {group: sales}}
  - id: invoice
    call: billing.create-invoice
    verify: {call: billing.get-invoice, expect: response.total_minor == request.total_minor}
  - id: copy
    when: event.revision > 2
    call: billing.create-invoice
    verify: {call: billing.get-invoice, expect: response.total_minor == request.total_minor}
"""


@cache
def contracts() -> Contracts:
    return Contracts.load(ROOT / "contracts")


@cache
def flow(hands_over: bool) -> Flow:
    """Three steps behind the credit rules; `hands_over`: failures go to a person."""
    with TemporaryDirectory() as folder:
        flows = Path(folder) / "flows"
        shutil.copytree(ROOT / "flows", flows, ignore=shutil.ignore_patterns("flows.lock"))
        path = flows / "order-to-invoice" / "v1" / "flow.yaml"
        text = path.read_text()
        start, end = text.index("steps:"), text.index("retry:")
        path.write_text(text[:start] + STEPS + ("on_failure: [manual]\n" if hands_over else "") + text[end:])
        return Flows.load(flows, ROOT / "systems", contracts()).newest("order-to-invoice")


class Runs(RuleBasedStateMachine):
    """One run; every event may come at any time, any number of times."""

    @initialize(
        hands_over=st.booleans(),
        revision=st.integers(1, 3),
        total=st.sampled_from([1_000, 50_000_000]),
        balance=st.sampled_from([0, -99_000]),
    )
    def begin(self, hands_over: bool, revision: int, total: int, balance: int) -> None:
        self.flow = flow(hands_over)
        self.order = {
            "order_id": "4711",
            "revision": revision,
            "customer_id": "370",
            "customer_name": None,
            "segment": "BUILDING",
            "account_balance_minor": balance,
            "total_minor": total,
            "currency": "EUR",
            "ordered_on": "1996-01-02",
        }
        self.request = self.flow.mapping.transform(self.order)
        self.state: RunState | None = None
        self.at = 1_000
        self.transitions: list[dict[str, Any]] = []
        self.commands: list[tuple[str, int]] = []
        self.tasks: dict[str, str] = {}
        self.results = 0

    @rule()
    def prepared(self) -> None:
        known = self.state
        event = contracts().encode("orders/order-accepted.v1", self.order)
        request = contracts().encode(self.flow.request_contract, self.request)
        moved = self.feed(Prepared(RUN, "4711", event, request, {"order_id": "4711"}, self.tick()))
        assert (moved.ignored is not None) == (known is not None)

    @rule(
        step=st.sampled_from(["invoice", "copy", "sign", "gone"]),
        revision=st.integers(0, 4),
        status=st.sampled_from(["verified", "accepted", "failed", "unknown"]),
        replay=st.booleans(),
    )
    def any_outcome(self, step: str, revision: int, status: str, replay: bool) -> None:
        self.outcome(step, revision, status, replay)

    @rule(status=st.sampled_from(["verified", "accepted", "failed", "unknown"]), replay=st.booleans())
    def fresh_outcome(self, status: str, replay: bool) -> None:
        if self.commands:
            self.outcome(*self.commands[-1], status, replay)

    @rule(step=st.sampled_from(["invoice", "copy", "sign"]), revision=st.integers(0, 3), fresh=st.booleans())
    def failing(self, step: str, revision: int, fresh: bool) -> None:
        if fresh and self.commands:
            step, revision = self.commands[-1]
        before = self.state
        moved = self.feed(StepFailing(step, revision, "transient", None, 1, self.tick()))
        if moved.ignored is None:
            assert before is not None
            assert (step, revision) == self.commands[-1]
            assert (before.state, [each["state"] for each in moved.transitions]) == ("acting", ["acting"])
            assert moved.commands == moved.tasks == ()

    @rule(pick=st.integers(0, 9), verdict=st.sampled_from(["approve", "reject", "done"]))
    def verdict(self, pick: int, verdict: Any) -> None:
        tasks = [*self.tasks, "no-such-task"]
        task = tasks[pick % len(tasks)]
        was_open = self.tasks.get(task) == "open"
        moved = self.feed(HumanVerdict(task, "any", verdict, "ann", None, self.tick()))
        assert was_open or moved.ignored is not None

    def outcome(self, step: str, revision: int, status: Any, replay: bool) -> None:
        before = self.state
        response = None
        if status in ("verified", "accepted"):
            response = contracts().encode("billing/invoice.v1", {**self.request, "invoice_id": "I"})
        failure = "business" if status == "failed" else None
        moved = self.feed(StepOutcome(step, revision, status, failure, None, response, 1, None, replay, self.tick()))
        if moved.give_up is not None:
            assert moved.state is not None
            assert moved.state.state == "failed"
        if (step, revision) not in self.commands:
            assert moved.ignored is not None
        if before is not None and before.state in ENDS and moved.ignored is None:
            assert (before.state, replay, status, moved.transitions[0]["state"]) == ("failed", True, "failed", "acting")

    def feed(self, event: Any) -> Advance:
        before = self.state
        responses = dict(before.responses) if before else {}
        if isinstance(event, StepOutcome) and event.response:
            responses[event.step] = event.response
        decoded = {name: contracts().decode(raw)[1] for name, raw in responses.items()}
        view = Values(self.order, self.request, decoded)
        moved = advance(self.flow, before, event, view)
        assert moved == advance(self.flow, before, event, view)
        if moved.ignored is not None:
            assert moved == Advance(before, ignored=moved.ignored)
            return moved
        if before is not None and before.state in ENDS:
            assert isinstance(event, StepOutcome)
        self.state = moved.state
        self.transitions += moved.transitions
        self.commands += [(command["step"], command["revision"]) for command in moved.commands]
        for task in moved.tasks:
            contracts().encode("handrail/task.v1", task)
            assert task["state"] == "open" or self.tasks[task["task"]] == "open"
            self.tasks[task["task"]] = task["state"]
        self.results += moved.done is not None
        return moved

    def tick(self) -> int:
        self.at += 7
        return self.at

    @invariant()
    def the_transitions_are_dense_and_fold_to_the_state(self) -> None:
        if not getattr(self, "transitions", None):
            return
        assert self.state is not None
        assert [each["sequence"] for each in self.transitions] == list(range(1, len(self.transitions) + 1))
        pairs = zip([None, *self.transitions], self.transitions, strict=False)
        assert all(after["previous"] == (before["state"] if before else None) for before, after in pairs)
        last = self.transitions[-1]
        assert (last["state"], last["sequence"], last["step"], last["at"]) == (
            self.state.state,
            self.state.sequence,
            self.state.step,
            self.state.updated_at,
        )

    @invariant()
    def a_step_is_called_once_per_revision(self) -> None:
        commands = getattr(self, "commands", [])
        assert len(commands) == len(set(commands))

    @invariant()
    def one_result_and_only_with_a_good_end(self) -> None:
        state = getattr(self, "state", None)
        if state is not None:
            assert self.results == (1 if state.state in ("done", "done-by-hand") else 0)

    @invariant()
    def a_task_is_open_only_while_the_run_waits_for_it(self) -> None:
        state = getattr(self, "state", None)
        if state is not None:
            open_tasks = [task for task, standing in self.tasks.items() if standing == "open"]
            assert open_tasks == ([state.task] if state.task else [])
            assert (state.state in ("waiting", "manual")) == bool(open_tasks)

    @invariant()
    def the_state_survives_its_contract(self) -> None:
        state = getattr(self, "state", None)
        if state is not None:
            data = contracts().encode("handrail/run-state.v1", state.to_record())
            assert RunState.from_record(contracts().decode(data)[1]) == state


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
