"""The real Jaeger beside a real deployment: what an operator sees of a run with a retry, a replay and a verdict."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from handrail.local.asking import ask_all
from handrail.local.go import BUILD_S
from handrail.local.jaeger import Jaeger as LocalJaeger
from handrail.telemetry import Telemetry
from handrail.traceparent import trace_id
from handrail_console.jaeger import Jaeger
from handrail_console.tracetree import Tree, tree

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(BUILD_S + 600)]  # it may have to be built from its Go module
Company = Any
Edge = tuple[str, str]
OVER_THE_LIMIT = 34_000_001

# Which operation is the parent of which.
PLAIN_EDGES: frozenset[Edge] = frozenset(
    {
        ("ingest.process", "transform.process"),
        ("transform.process", "decision.process"),
        ("decision.process", "action.process"),
        ("action.process", "action.call"),
        ("action.call", "action.verify"),
        ("action.verify", "decision.process"),
    }
)
RETRY: Edge = ("action.call", "action.call")
FAILING: Edge = ("action.call", "decision.process")
"""That it failed, at once and, where it was given up, in the end."""
LETTER: Edge = ("decision.process", "recovery.process")
VERDICT: Edge = ("decision.process", "decision.process")
SERVICE_EDGES: dict[str, frozenset[Edge]] = {
    "retried": PLAIN_EDGES | {RETRY, FAILING},
    "replayed": PLAIN_EDGES | {RETRY, FAILING, LETTER},
    "reviewed": PLAIN_EDGES | {VERDICT},
}
ORDER_EDGES: dict[str, frozenset[Edge]] = {
    "replayed": frozenset({("operator.publish", "recovery.process"), ("recovery.process", "recovery.process")}),
    "reviewed": frozenset({("operator.publish", "recovery.process")}),
}
SERVICES = {f"handrail-{name}" for name in ("ingest", "transform", "decision", "action", "recovery", "operator")}


@pytest.fixture(scope="module")
def eyes(jaeger: LocalJaeger, company_of: Callable[..., Company]) -> Iterator[Company]:
    """A deployment whose services send their spans to Jaeger."""
    with company_of(jaeger) as company:
        deadline = time.monotonic() + 60  # a container takes its time
        while not ask_all([company.process("jaeger")]).get("jaeger", "").startswith("answers"):
            assert time.monotonic() < deadline, "Jaeger does not answer"
            threading.Event().wait(0.2)
        yield company


@pytest.fixture(scope="module")
def orders(eyes: Company) -> dict[str, dict[str, Any]]:
    """One that billing refuses once; one that becomes a dead letter, mended and replayed; one that a person approves."""
    billing = eyes.sandbox
    billing.order_faults("billing", {"kind": "503", "times": 1})
    retried = eyes.order()
    eyes.publish(retried)
    eyes.wait_for("done", retried)
    billing.order_faults("billing", {"kind": "503"})
    replayed = eyes.order()
    eyes.publish(replayed)
    letter = eyes.letter_of_run(replayed)["letter"]
    billing.mend("billing")
    eyes.wait_told(lambda letters: any(one["letter"] == letter for one in letters), "dlq", "list")
    ended = eyes.handrail("dlq", "replay", letter, "--reason", "billing is mended", "--yes")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    eyes.wait_for("done", replayed)
    reviewed = eyes.order(total_minor=OVER_THE_LIMIT)
    eyes.publish(reviewed)
    (task,) = eyes.onlooker.wait(lambda: eyes.tasks(reviewed), "a task")
    eyes.wait_told(lambda tasks: any(one["task"] == task["task"] for one in tasks), "tasks", "list")
    ended = eyes.handrail("tasks", "approve", task["task"])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    eyes.wait_for("done", reviewed)
    return {"retried": retried, "replayed": replayed, "reviewed": reviewed}


def edges(whole: Tree) -> set[Edge]:
    def name(node: Any) -> str:
        return f"{node.service}.{node.operation}"

    return {(name(node), name(below)) for node in whole.nodes() for below in node.below}


def told(company: Company, trace: str, enough: Callable[[Tree], bool]) -> Tree:
    """The trace as Jaeger has it as soon as it is whole (the exporters send once a second), or after 20 s."""
    api = Jaeger(company.traces.page)
    deadline = time.monotonic() + 20
    while True:
        found = tree(trace, api.trace(trace) or {})
        if enough(found) or time.monotonic() > deadline:
            return found
        threading.Event().wait(0.2)


def trace_of(company: Company, order: dict[str, Any]) -> str:
    (found,) = {step["trace"] for step in company.transitions(order)}
    return str(found)


@pytest.mark.parametrize("name", SERVICE_EDGES)
def test_jaeger_has_the_run_as_one_tree_with_these_edges_and_no_other(
    eyes: Company, orders: dict[str, Any], name: str
) -> None:
    expected = SERVICE_EDGES[name]
    found = told(eyes, trace_of(eyes, orders[name]), lambda one: edges(one) >= expected and len(one.roots) == 1)
    assert edges(found) == expected
    assert [(root.service, root.orphan) for root in found.roots] == [("ingest", False)]


@pytest.mark.parametrize("name", ORDER_EDGES)
def test_what_a_person_ordered_is_linked_from_the_run_to_their_order(
    eyes: Company, orders: dict[str, Any], name: str
) -> None:
    found = told(eyes, trace_of(eyes, orders[name]), lambda one: bool(one.links))
    (link,) = found.links
    order = told(eyes, link, lambda one: edges(one) >= ORDER_EDGES[name])
    assert edges(order) == ORDER_EDGES[name]


def unsampled() -> str:
    """A context of the outside world, which has decided not to record what begins here."""
    return f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-00"


def test_a_run_that_was_not_sampled_is_there_whole_when_it_failed_and_not_at_all_when_it_went_well(
    eyes: Company,
) -> None:
    well, failed = eyes.orders(2)
    eyes.publish(well, headers=[("traceparent", unsampled().encode())])
    eyes.wait_for("done", well)
    eyes.sandbox.order_faults("billing", {"kind": "503", "times": 1})
    eyes.publish(failed, headers=[("traceparent", unsampled().encode())])
    eyes.wait_for("done", failed)
    expected = SERVICE_EDGES["retried"]
    found = told(eyes, trace_of(eyes, failed), lambda one: edges(one) >= expected and len(one.roots) == 1)
    assert edges(found) == expected
    assert [root.service for root in found.roots] == ["ingest"]
    assert Jaeger(eyes.traces.page).trace(trace_of(eyes, well)) is None  # what began before the other is decided by now


def test_of_a_run_that_fails_later_is_there_what_was_just_before_and_all_after_it(eyes: Company) -> None:
    """Hours later, say, with a person's decision between; here as soon as what was left out has been let go."""
    telemetry = Telemetry.from_env("ingest", eyes.traces.settings())

    def span(parent: str, stage: str, error: str | None = None) -> str:
        context = telemetry.child(parent, keep=error is not None)
        now = time.time_ns()
        telemetry.record(
            stage=stage, operation="process", parent=parent, context=context, error=error, start_ns=now, end_ns=now
        )
        return context

    def fail(context: str) -> list[str]:
        span(span(span(context, "before"), "failed", "transient"), "after")
        found = told(eyes, str(trace_id(context)), lambda one: len(one.nodes()) >= 3)
        return [node.place for node in found.nodes()]

    late = span(unsampled(), "early")
    for _ in range(2):  # when the second is there, both the first early span and another after it were let go
        span(unsampled(), "of another")
        assert fail(unsampled()) == ["before", "failed", "after"]
    assert fail(late) == ["before", "failed", "after"]
    telemetry.shutdown()


def test_jaeger_lists_every_service(eyes: Company, orders: dict[str, Any]) -> None:
    with urllib.request.urlopen(f"{eyes.traces.page}/api/services", timeout=10) as answer:
        assert set(json.load(answer)["data"]) == SERVICES


def test_handrail_trace_prints_the_tree_with_what_failed_and_the_link(eyes: Company, orders: dict[str, Any]) -> None:
    replayed = orders["replayed"]
    trace = trace_of(eyes, replayed)
    told(eyes, trace, lambda one: edges(one) >= SERVICE_EDGES["replayed"])
    ended = eyes.handrail("trace", replayed["order_id"])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "action call billing  (FAILED: 503; attempt 2)" in ended.stdout
    assert "(FAILED: transient)" in ended.stdout
    assert "replay 1; ordered in trace" in ended.stdout
    assert "Order " in ended.stdout
    assert f"{eyes.traces.page}/trace/{trace}" in ended.stdout
    programs = eyes.told("trace", eyes.run_of(replayed))
    assert [one["trace"] for one in programs["traces"] if not one["order"]] == [trace]


def test_a_run_that_jaeger_does_not_know_ends_with_1_and_a_jaeger_that_is_away_with_2(
    eyes: Company, orders: dict[str, Any]
) -> None:
    assert eyes.handrail("trace", "no-such-order").returncode == 1
    away = eyes.handrail("trace", orders["retried"]["order_id"], HANDRAIL_JAEGER="http://127.0.0.1:9")
    assert (away.returncode, "handrail up --jaeger" in away.stderr) == (2, True)


def test_status_shows_jaeger_beside_the_services(eyes: Company) -> None:
    deadline = time.monotonic() + 30  # each process has two seconds to answer, which on a busy machine is too short
    while (told := json.loads(eyes.handrail("status", "--json").stdout))["health"].get("jaeger") != (
        f"answers at {eyes.traces.page}"
    ):
        assert time.monotonic() < deadline, told
