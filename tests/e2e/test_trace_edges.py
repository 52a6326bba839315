"""The spans of real runs, gathered over OTLP from every service: each run is one connected trace.

The edges are data: which operation is the parent of which. A service that forgets to hand a context on loses an edge here,
and one that invents a context gets an edge that is not in the list.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from handrail.telemetry import ALLOWED
from handrail.testing.otlp import Span, edges
from handrail.traceparent import trace_id
from handrail_console.orders import Said, Sender, letter_order, task_order

pytestmark = pytest.mark.kafka
Company = Any
Edge = tuple[str, str]

OVER_THE_LIMIT = 34_000_001

# The way of every order.
PLAIN_EDGES: frozenset[Edge] = frozenset(
    {
        ("ingest.process", "transform.process"),  # the event as it came, stamped with its run
        ("transform.process", "decision.process"),  # the event and the request made of it: the run begins
        ("decision.process", "action.process"),  # the command is taken: an intent
        ("action.process", "action.call"),  # the first call that the command asks for
        ("action.call", "action.verify"),  # it was answered, or its reply was lost: billing is asked
        ("action.verify", "decision.process"),  # the outcome of a call that was verified
    }
)
# What is added on bad days.
SERVICE_EDGES: frozenset[Edge] = PLAIN_EDGES | {
    ("action.call", "action.call"),  # refused, so tried again: the attempts of one command are a chain
    ("action.verify", "action.verify"),  # it is not there yet: asked again
    ("action.verify", "action.call"),  # it is surely not there: called again
    ("action.call", "decision.process"),  # a call failed, at first or for good; and its replay, from the same bytes
    ("decision.process", "recovery.process"),  # the dead letter of that outcome
}


@dataclass(frozen=True)
class Told:
    """One order, the context that it was published with, and the spans of that trace."""

    order: dict[str, Any]
    root: str
    spans: list[Span]

    @property
    def orphans(self) -> list[str]:
        """Spans whose parent nobody has recorded."""
        known = {span.id for span in self.spans} | {self.root}
        return [f"{span.operation} below {span.parent}" for span in self.spans if span.parent not in known]

    def count(self, operation: str) -> int:
        return sum(span.operation == operation for span in self.spans)


def context() -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


class Teller:
    """Publishes orders with a context of their own, and gathers what was told of them."""

    def __init__(self, company: Company) -> None:
        self._company = company
        self._published: dict[str, tuple[dict[str, Any], str]] = {}

    def publish(self, name: str, **fields: Any) -> dict[str, Any]:
        order, own = self._company.order(**fields), context()
        self._published[name] = order, own
        self._company.publish(order, headers=[("traceparent", own.encode())])
        return order

    def gather(self, wanted: dict[str, dict[str, int]]) -> dict[str, Told]:
        """Wait until each trace has so many spans of these operations (the exporters send once a second), or 15 s."""

        def told() -> dict[str, Told]:
            found = self._company.collector.spans()
            return {
                name: Told(order, own[36:52], [span for span in found if span.trace == trace_id(own)])
                for name, (order, own) in self._published.items()
            }

        def whole(_: object) -> bool:
            now = told()
            return all(
                now[name].count(operation) >= count
                for name, counts in wanted.items()
                for operation, count in counts.items()
            )

        self._company.collector.wait_until(whole, 15.0)
        return told()


@pytest.fixture(scope="module")
def told(running: Company) -> Iterator[dict[str, Told]]:
    """A plain run; one with a 503 first; a lost reply; an empty promise; a dead letter that is replayed; an invalid order."""
    billing, teller = running.sandbox, Teller(running)
    running.wait_for("done", teller.publish("plain"))
    for name, kind in (
        ("retried", "503"),
        ("reply lost", "apply-then-lose-reply"),
        ("promised", "success-but-nothing"),
    ):
        billing.order_faults("billing", {"kind": kind, "times": 1})
        running.wait_for("done", teller.publish(name))
    teller.publish("invalid", currency="eu")
    billing.order_faults("billing", {"kind": "503"})
    replayed = teller.publish("replayed")
    letter = running.letter(replayed)
    running.onlooker.wait(lambda: running.letter_states(letter["letter"]), "an open letter")
    billing.mend("billing")
    double_click = [letter_order("replay", letter, Said("ada@example.com", "mended"), letter["failed_at"])] * 2
    Sender(running.stack.bootstrap, running.contracts)(double_click)
    running.wait_for("done", replayed)
    whole = {f"{service}.process": 1 for service in ("ingest", "transform", "action")}
    whole |= {"decision.process": 2, "action.call": 1, "action.verify": 1}
    failing = whole | {"decision.process": 3}
    yield teller.gather(
        {
            "plain": whole,
            "retried": failing | {"action.call": 2},
            "reply lost": failing,
            "promised": failing | {"action.call": 2, "action.verify": 3},
            "replayed": whole | {"action.process": 2, "action.call": 8, "decision.process": 5, "recovery.process": 1},
            "invalid": {"ingest.process": 1, "recovery.process": 1},
        }
    )
    billing.mend("billing")


def came(company: Company, trace: str, wanted: str | None = None) -> list[Span]:
    """The spans of a trace, as soon as the wanted one (or any: each service sends its own) has come, or after 15 s."""
    spans = company.collector.wait_until(
        lambda spans: any(span.trace == trace and wanted in (None, span.id) for span in spans), 15.0
    )
    return [span for span in spans if span.trace == trace]


RUNS = ("plain", "retried", "reply lost", "promised", "replayed")


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_one_connected_trace_from_the_published_event_to_its_outcome(
    company: Company, told: dict[str, Told], name: str
) -> None:
    one = told[name]
    assert one.orphans == []
    below_root = [span.operation for span in one.spans if span.parent == one.root]
    assert below_root == ["ingest.process"]
    run = company.run_of(one.order)
    elsewhere = [span for span in company.collector.spans() if span.attributes.get("handrail.run") == run]
    assert {span.trace for span in elsewhere} == {one.spans[0].trace}
    assert {step["trace"] for step in company.transitions(one.order)} == {one.spans[0].trace}
    (event,) = company.done_events(one.order)
    assert trace_id((event.headers["traceparent"] or b"").decode()) == one.spans[0].trace


def test_a_plain_run_has_the_edges_of_the_way_and_no_other(told: dict[str, Told]) -> None:
    assert edges(told["plain"].spans) == PLAIN_EDGES


def test_all_runs_together_have_every_edge_and_no_other(told: dict[str, Told]) -> None:
    seen = set().union(*(edges(told[name].spans) for name in RUNS))
    assert seen == SERVICE_EDGES


def test_a_replay_goes_on_in_the_trace_of_what_failed(company: Company, told: dict[str, Told]) -> None:
    """The order to replay was given twice, as a double click does: the stage took it once."""
    one = told["replayed"]
    replays = [span for span in one.spans if span.attributes.get("handrail.replay") == 1]
    assert [span.operation for span in replays] == ["decision.process"]
    ((trace, above),) = replays[0].links
    orders = came(company, trace, above)
    assert {span.operation for span in orders} == {"recovery.process"}
    assert above in {span.id for span in orders}
    assert len(company.invoices(one.order)) == 1
    (letter,) = company.letters(one.order)
    assert letter["trace"] == one.spans[0].trace
    company.onlooker.wait(lambda: len(company.letter_states(letter["letter"])) == 3, "three states")
    assert company.letter_states(letter["letter"]) == ["OPEN", "REPLAYING", "RESOLVED"]


def test_what_failed_is_marked_with_its_class_and_what_went_well_is_not(told: dict[str, Told]) -> None:
    failed = {
        name: {(span.operation, span.attributes["error.type"]) for span in one.spans if span.failed}
        for name, one in told.items()
    }
    assert failed == {
        "plain": set(),
        "retried": {("action.call", "503")},
        "reply lost": {("action.call", "lost")},
        "promised": {("action.verify", "404")},  # an answer to us, an error to OpenTelemetry's conventions of HTTP
        "replayed": {("action.call", "503"), ("decision.process", "transient")},
        "invalid": {("ingest.process", "contract")},
    }
    assert sum(span.failed for span in told["replayed"].spans) == 8  # seven attempts, and the end of it


def test_billing_received_the_context_of_the_call_that_reached_it(company: Company, told: dict[str, Told]) -> None:
    for name in RUNS:
        calls = company.calls(told[name].order)
        ours = {f"00-{span.trace}-{span.id}-01" for span in told[name].spans if span.service == "action"}
        received = [call["traceparent"] for call in calls]
        assert received, name
        assert set(received) <= ours, name
        assert len(received) == len(set(received)), name


def test_an_event_published_without_a_context_gets_a_trace_of_its_own(company: Company) -> None:
    order, other = company.order(), company.order()
    company.publish(order, other)
    company.wait_for("done", order, other)
    (own,) = {step["trace"] for step in company.transitions(order)}

    def whole(spans: list[Span]) -> bool:
        return edges(span for span in spans if span.trace == own) >= PLAIN_EDGES

    spans = [span for span in company.collector.wait_until(whole, 15.0) if span.trace == own]
    roots = [span for span in spans if span.parent is None]
    assert [span.operation for span in roots] == ["ingest.process"]
    assert edges(spans) == PLAIN_EDGES
    assert {step["trace"] for step in company.transitions(other)}.isdisjoint({own})


def test_publishing_at_the_command_line_begins_the_trace(company: Company, tmp_path: Any) -> None:
    order = company.order()
    file = tmp_path / "orders.jsonl"
    file.write_text(json.dumps(order))
    assert company.handrail("publish", "orders/order-accepted.v1", str(file)).returncode == 0
    company.wait_for("done", order)
    (published,) = [
        one for one in company.onlooker.seen("ingest.orders.order-accepted") if one.key == order["order_id"]
    ]
    trace = trace_id((published.headers["traceparent"] or b"").decode())
    first = ("publish.publish", "ingest.process")  # the command line is the root

    def begun(spans: list[Span]) -> bool:
        return first in edges(span for span in spans if span.trace == trace)

    spans = [span for span in company.collector.wait_until(begun, 15.0) if span.trace == trace]
    assert first in edges(spans)
    assert {step["trace"] for step in company.transitions(order)} == {trace}


def test_no_span_carries_what_is_personal(company: Company, told: dict[str, Told]) -> None:
    """Only attributes of the list, and none of an order's values: of all spans that this deployment has sent so far."""
    spans = company.collector.spans()
    conventional = {"handrail.stage", "messaging.system", "messaging.operation.name", "messaging.operation.type"}
    named = {name for span in spans for name in span.attributes}
    assert named <= ALLOWED | conventional | {"error.type"}
    secret = {told["plain"].order[name] for name in ("customer_name", "customer_id", "order_id")}
    texts = {str(value) for span in spans for value in (span.name, *span.attributes.values())}
    assert [text for text in texts if any(word in text for word in secret)] == []


def test_a_call_is_below_the_command_that_asked_for_it(told: dict[str, Told]) -> None:
    seen = edges(told["plain"].spans)
    assert ("action.process", "action.call") in seen
    assert ("decision.process", "action.call") not in seen


def test_a_dead_letter_is_below_the_span_in_which_it_failed(told: dict[str, Told]) -> None:
    assert ("ingest.process", "recovery.process") in edges(told["invalid"].spans)
    assert ("decision.process", "recovery.process") in edges(told["replayed"].spans)


def test_a_run_that_a_person_decided_stays_one_trace_linked_to_their_order(company: Company) -> None:
    teller = Teller(company)
    order = teller.publish("reviewed", total_minor=OVER_THE_LIMIT)
    (task,) = company.onlooker.wait(lambda: company.tasks(order), "a task")
    send = Sender(company.stack.bootstrap, company.contracts)
    send([task_order("approve", task, Said("ada@example.com"), task["at"])])
    company.wait_for("done", order)
    whole = {"decision.process": 3, "action.verify": 1}
    one = teller.gather({"reviewed": whole})["reviewed"]
    assert {step["trace"] for step in company.transitions(order)} == {one.spans[0].trace}
    assert one.orphans == []
    went_on = ("decision.process", "decision.process")  # the verdict hangs below the move that asked for it
    assert edges(one.spans) == PLAIN_EDGES | {went_on}
    (decided,) = [span for span in one.spans if span.links]
    ((trace, above),) = decided.links
    elsewhere = came(company, trace)
    assert [(span.operation, span.id) for span in elsewhere] == [("recovery.process", above)]
