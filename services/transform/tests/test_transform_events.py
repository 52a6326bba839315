"""Transform: an event becomes a request, once, by the version of its run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.identity import partition_for, run_id
from handrail.message import Run
from handrail.service import Deployment
from handrail.spec import Spec
from handrail.testing.driver import StageDriver
from handrail.testing.memory import MemoryBroker
from handrail_transform.bootstrap import plans
from handrail_transform.handler import Transform

from handrail import envelope

TYPE = "orders/order-accepted.v1"
NEXT = "order-to-invoice.decision"
RUN = Run(run_id("order-to-invoice", {"order_id": "7", "revision": "1"}), "order-to-invoice", 1)


@pytest.fixture
def spec(deployment: Deployment) -> Spec:
    (plan,) = plans(deployment)
    return plan.spec


@pytest.fixture
def stage(spec: Spec, drive: Callable[..., StageDriver]) -> StageDriver:
    return drive(spec)


def test_the_prepared_event_carries_the_event_and_the_request_made_of_it(
    stage: StageDriver, broker: MemoryBroker, contracts: Contracts, order: Any, bodies: Any
) -> None:
    stage.send(TYPE, "7", order(total_minor=1234), id=RUN.id, run=RUN)
    stage.drain()
    (sent,) = broker.records(NEXT)
    (prepared,) = bodies(NEXT)
    assert (prepared["run"], prepared["flow"], prepared["version"]) == (RUN.id, RUN.flow, 1)
    assert prepared["event"] == order(total_minor=1234)
    contract, request = contracts.decode(prepared["request"])
    assert contract.name == "billing/invoice-request.v1"
    assert request == {"reference": "7/1", "customer_id": "c1", "total_minor": 1234, "currency": "EUR"}
    meta = envelope.read_internal(sent.headers)
    assert (meta.run, meta.route, meta.cause) == (RUN, "7", RUN.id)
    assert sent.partition == partition_for("7", 2)


def test_copies_with_the_same_id_are_dropped_also_after_a_crash(
    stage: StageDriver, broker: MemoryBroker, order: Any, drive: Any, spec: Spec
) -> None:
    stage.send(TYPE, "7", order(), id=RUN.id, run=RUN)
    stage.send(TYPE, "7", order(segment="other"), id=RUN.id, run=RUN)
    stage.drain()
    stage.crash()
    again = drive(spec, "another disk")
    again.send(TYPE, "7", order(), id=RUN.id, run=RUN)
    again.drain()
    assert len(broker.records(NEXT)) == 1
    assert again.stage.counters["duplicates"] == 1


def broken(spec: Spec, fails: Callable[[Mapping[str, Any]], Any]) -> Spec:
    """The stage with a mapping of its own."""
    handler = spec.handler
    assert isinstance(handler, Transform)
    return replace(spec, handler=replace(handler, mapping=lambda _version: fails))


def test_a_mapping_that_raises_is_a_bug_with_two_retries_and_then_a_dead_letter_with_its_run(
    spec: Spec, drive: Any, order: Any, broker: MemoryBroker
) -> None:
    calls = []

    def fails(event: Mapping[str, Any]) -> Any:
        calls.append(event)
        raise ZeroDivisionError("customers without orders")

    stage = drive(broken(spec, fails))
    stage.send(TYPE, "7", order(), id=RUN.id, run=RUN)
    stage.drain()
    for expected in (1, 2, 3):
        assert len(calls) == expected
        assert bool(stage.letters()) == (expected == 3)
        stage.clock.advance(10_000)
        stage.drain()
    assert len(calls) == 3
    (letter,) = stage.letters()
    assert (letter["failure_class"], letter["attempts"]) == ("bug", 3)
    assert (letter["run"], letter["flow"], letter["version"], letter["route"]) == (RUN.id, RUN.flow, 1, "7")
    assert letter["exception"] == "ZeroDivisionError"
    assert "customers without orders" in letter["message"]
    assert broker.records(NEXT) == []


def test_a_request_that_breaks_its_contract_is_a_dead_letter_that_names_the_field(
    spec: Spec, drive: Any, order: Any, broker: MemoryBroker
) -> None:
    stage = drive(broken(spec, lambda event: {"reference": "7/1", "customer_id": "c", "currency": "EUR"}))
    stage.send(TYPE, "7", order(), id=RUN.id, run=RUN)
    stage.drain()
    (letter,) = stage.letters()
    assert (letter["failure_class"], letter["field"]) == ("contract", "total_minor")


def test_a_failing_event_holds_back_its_own_key_only(
    spec: Spec, drive: Any, order: Any, broker: MemoryBroker, deployment: Deployment
) -> None:
    good = deployment.flows.newest("order-to-invoice").mapping.transform
    down = {"7"}

    def sometimes(event: Mapping[str, Any]) -> Any:
        if event["order_id"] in down:
            raise RuntimeError("not yet")
        return good(event)

    stage = drive(broken(spec, sometimes))
    for number, (key, revision) in enumerate((("7", 1), ("7", 2), ("8", 1))):
        run = replace(RUN, id=run_id(RUN.flow, {"n": str(number)}))
        stage.send(TYPE, key, order(order_id=key, revision=revision), id=run.id, run=run)
    stage.drain()
    assert [record.key for record in broker.records(NEXT)] == [b"8"]
    down.clear()
    stage.clock.advance(10_000)
    stage.drain()
    assert [record.key for record in broker.records(NEXT) if record.key == b"7"] == [b"7", b"7"]


def test_an_unknown_version_pauses_its_partition_and_makes_no_dead_letter(
    spec: Spec, drive: Any, order: Any, broker: MemoryBroker
) -> None:
    stage = drive(spec)
    stage.send(TYPE, "7", order(), id="x", run=replace(RUN, version=2))
    stage.send(TYPE, "7", order(), id=RUN.id, run=RUN)
    stage.drain()
    assert not stage.stage.ready()
    assert stage.letters() == []
    assert broker.records(NEXT) == []
    stage.crash()
    upgraded = replace(spec, knows=lambda _flow, _version: True)
    handler = spec.handler
    assert isinstance(handler, Transform)
    both = replace(
        handler, mapping=lambda _version: handler.mapping(1), encode=lambda _version, body: handler.encode(1, body)
    )
    stage = drive(replace(upgraded, handler=both), "upgraded")
    stage.drain()
    assert len(broker.records(NEXT)) == 2, "nothing was lost meanwhile"


def test_an_event_without_a_run_is_not_taken(stage: StageDriver, order: Any, broker: MemoryBroker) -> None:
    stage.send(TYPE, "7", order(), id="x")
    for _ in range(4):
        stage.drain()
        stage.clock.advance(60_000)
    (letter,) = stage.letters()
    assert "stamped events only" in letter["message"]
    assert broker.records(NEXT) == []
