"""Whole runs on the twin, with every service's real stages: one trace each, through a retry, a replay and a verdict."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from handrail.envelope import write_internal
from handrail.message import Finished
from handrail.telemetry import ATTEMPT, Telemetry
from handrail.testing.otlp import Collector, Span, edges
from handrail.testing.twin import Twin
from handrail.traceparent import kept, trace_id
from handrail_action import bootstrap as action
from handrail_action.calls import Job, Reply
from handrail_console.orders import Order, Said, letter_order, task_order
from handrail_decision import bootstrap as decision
from handrail_ingest import bootstrap as ingest
from handrail_recovery import bootstrap as recovery
from handrail_transform import bootstrap as transform

ROOT = Path(__file__).parents[2]
OVER_THE_LIMIT = 34_000_001
ROOM = 100
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = SAMPLED[:-2] + "00"
ORDERS_OWN = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
PLAIN_EDGES = {
    ("ingest.process", "transform.process"),
    ("transform.process", "decision.process"),
    ("decision.process", "action.process"),
    ("action.process", "action.call"),
    ("action.call", "action.verify"),
    ("action.verify", "decision.process"),
}


class Billing:
    """Answers at once: the next `refusals` calls with 503, all others well. It tells of each call as HttpWorker does."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.refusals = 0
        self._invoices: dict[str, bytes] = {}
        self._telemetry = telemetry
        self._done: list[tuple[int, Finished]] = []

    def start(self, partition: int, key: str, job: Job) -> None:
        context, now = self._telemetry.child(job.traceparent, job.run), time.time_ns()
        refused = job.kind == "call" and self.refusals > 0
        self.refusals -= refused
        failed = "503" if refused else None
        self._telemetry.record(
            stage="action.billing",
            operation=job.kind,
            parent=job.traceparent,
            context=context,
            start_ns=now,
            end_ns=now,
            attributes={ATTEMPT: job.attempt},
            error=failed,
        )
        if job.kind == "call" and not refused:
            self._invoices[job.run] = json.dumps({"invoice_id": "i-1"} | json.loads(job.body or b"{}")).encode()
        status, body = (503, b"") if refused else (200, self._invoices[job.run])
        trace = kept(context) if failed else context
        reply = Reply(job.kind, job.attempt, job.check, status=status, body=body, traceparent=trace)
        self._done.append((partition, Finished(key, reply)))

    def finished(self) -> Sequence[tuple[int, Finished]]:
        taken, self._done = self._done, []
        return taken

    def busy(self) -> bool:
        return bool(self._done)

    def room(self) -> int:
        return ROOM

    def forget(self, partition: int) -> None:
        self._done = [each for each in self._done if each[0] != partition]

    def close(self) -> None:
        """Nothing to stop."""


class World:
    """A deployment without Kafka, whose spans come to a collector."""

    def __init__(self, home: Path, collector: Collector) -> None:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        names = ("ingest", "transform", "decision", "action", "recovery")
        self._collector = collector
        self._telemetry = {name: Telemetry.from_env(name, env) for name in names}
        self.billing = Billing(self._telemetry["action"])
        services = [each.plans for each in (ingest, transform, decision, action, recovery)]
        workers = {f"action.{system}": self.billing for system in ("billing",)}
        self.twin = Twin(ROOT, home, services, workers, telemetry=self._of)

    def _of(self, stage: str) -> Telemetry:
        return self._telemetry[next(name for name in self._telemetry if name in stage.split("."))]

    def publish(self, traceparent: str, **fields: Any) -> None:
        order = {
            "order_id": "7",
            "revision": 1,
            "customer_id": "c1",
            "customer_name": "Ada",
            "segment": "BUILDING",
            "account_balance_minor": 100_000,
            "total_minor": 500,
            "currency": "EUR",
            "ordered_on": "2026-01-01",
        } | fields
        value = self.twin.contracts.encode("orders/order-accepted.v1", order)
        headers = (("traceparent", traceparent.encode()),)
        self.twin.broker.publish("ingest.orders.order-accepted", "7", value, headers)
        self.go_on()

    def order(self, given: Order) -> None:
        """An operator's order, with a trace of its own."""
        contract = "handrail/operator-command.v2"
        headers = write_internal("an order", contract, ORDERS_OWN, None, "cli", given.key)
        self.twin.broker.publish(
            "recovery.commands", given.key, self.twin.contracts.encode(contract, given.body), headers
        )
        self.go_on()

    def go_on(self) -> None:
        """Until nothing moves, through every retry."""
        for _ in range(20):
            self.twin.drain()
            self.twin.advance(6_000)
        self.twin.drain()

    @property
    def transitions(self) -> list[dict[str, Any]]:
        return sorted(self.twin.bodies("runs"), key=lambda one: one["sequence"])

    def spans(self) -> list[Span]:
        for telemetry in self._telemetry.values():
            telemetry.shutdown()
        return self._collector.spans()

    def close(self) -> None:
        self.twin.close()
        for telemetry in self._telemetry.values():
            telemetry.shutdown()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Collector() as collector:
        one = World(tmp_path, collector)
        yield one
        one.close()


def orphans(spans: Sequence[Span], root: str) -> list[Span]:
    known = {span.id for span in spans} | {root[36:52]}
    return [span for span in spans if span.parent not in known]


def test_a_run_that_is_tried_again_is_one_trace(world: World) -> None:
    world.billing.refusals = 1
    world.publish(SAMPLED)
    assert world.transitions[-1]["state"] == "done"
    spans = world.spans()
    assert {span.trace for span in spans} == {trace_id(SAMPLED)}
    tried_again = {("action.call", "action.call"), ("action.call", "decision.process")}  # and decision hears of it
    assert (edges(spans), orphans(spans, SAMPLED)) == (PLAIN_EDGES | tried_again, [])


def test_a_run_that_is_replayed_stays_one_trace_linked_to_the_order(world: World) -> None:
    world.billing.refusals = 7
    world.publish(SAMPLED)
    (letter,) = world.twin.bodies("dead-letters")
    world.order(letter_order("replay", letter, Said("ada@example.com", "mended"), letter["failed_at"]))
    assert world.transitions[-1]["state"] == "done"
    assert world.twin.bodies("recovery.states")[-1]["state"] == "RESOLVED"
    spans = world.spans()
    own = [span for span in spans if span.trace == trace_id(SAMPLED)]
    assert edges(own) == PLAIN_EDGES | {
        ("action.call", "action.call"),
        ("action.call", "decision.process"),
        ("decision.process", "recovery.process"),  # the letter, and that its replay went through
    }
    assert orphans(own, SAMPLED) == []
    order = [span for span in spans if span.trace == trace_id(ORDERS_OWN)]
    assert edges(order) == {("recovery.process", "recovery.process")}
    assert len(own) + len(order) == len(spans)
    assert [span.links for span in own if span.links] == [((order[-1].trace, order[-1].id),)]


def test_a_run_that_a_person_decided_stays_one_trace_linked_to_the_order(world: World) -> None:
    world.publish(SAMPLED, total_minor=OVER_THE_LIMIT)
    (task,) = world.twin.bodies("tasks")
    world.order(task_order("approve", task, Said("ada@example.com"), task["at"]))
    assert world.transitions[-1]["state"] == "done"
    assert {step["trace"] for step in world.transitions} == {trace_id(SAMPLED)}
    spans = world.spans()
    own = [span for span in spans if span.trace == trace_id(SAMPLED)]
    assert (edges(own), orphans(own, SAMPLED)) == (PLAIN_EDGES | {("decision.process", "decision.process")}, [])
    (order,) = [span for span in spans if span.trace != trace_id(SAMPLED)]
    assert [span.links for span in own if span.links] == [((order.trace, order.id),)]


def test_of_an_unsampled_run_that_fails_all_is_recorded_from_the_failure_on(world: World) -> None:
    world.billing.refusals = 1
    world.publish(UNSAMPLED)
    assert world.transitions[-1]["state"] == "done"
    spans = sorted(world.spans(), key=lambda span: span.start_ns)
    told = [(span.operation, span.failed) for span in spans]
    assert told[0] == ("action.call", True)
    assert sorted(told[1:]) == [
        ("action.call", False),
        ("action.verify", False),
        ("decision.process", False),
        ("decision.process", False),
    ]
    assert edges(spans) == {
        ("action.call", "action.call"),
        ("action.call", "decision.process"),
        ("action.call", "action.verify"),
        ("action.verify", "decision.process"),
    }


def test_of_an_unsampled_run_that_goes_well_nothing_is_recorded(world: World) -> None:
    world.publish(UNSAMPLED)
    assert world.transitions[-1]["state"] == "done"
    assert world.spans() == []
