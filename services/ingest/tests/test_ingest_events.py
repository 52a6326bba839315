"""Ingest: what the world sends becomes a stamped event of a run, or a dead letter that says why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.envelope import MAX_ROUTE_BYTES, Replay, write_internal, write_replay
from handrail.errors import ContractBroken
from handrail.identity import partition_for, run_id
from handrail.message import Due, Message, Run
from handrail.pending import View
from handrail.service import Deployment
from handrail.testing.driver import StageDriver
from handrail.testing.memory import MemoryBroker
from handrail_ingest.bootstrap import plans
from handrail_ingest.handler import Ingest

from handrail import envelope

SOURCE = "ingest.orders.order-accepted"
NEXT = "order-to-invoice.transform"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def stage(deployment: Deployment, drive: Callable[..., StageDriver]) -> StageDriver:
    (plan,) = plans(deployment)
    return drive(plan.spec)


def test_a_valid_event_is_stamped_with_its_run_the_flows_version_and_its_route(
    stage: StageDriver, broker: MemoryBroker, order: Any
) -> None:
    broker.publish(SOURCE, "whatever the shop likes", order(order_id="42", revision=3))
    stage.drain()
    (sent,) = broker.records(NEXT)
    meta = envelope.read_internal(sent.headers)
    run = run_id("order-to-invoice", {"order_id": "42", "revision": "3"})
    assert meta.run == Run(run, "order-to-invoice", 1)
    assert meta.id == run
    assert meta.type == "orders/order-accepted.v1"
    assert (meta.route, sent.key) == ("42", b"42")
    assert sent.partition == partition_for("42", 2)
    assert sent.value == order(order_id="42", revision=3), "the bytes as they came"


def test_two_copies_of_a_business_event_have_the_same_id_and_meet_on_one_partition(
    stage: StageDriver, broker: MemoryBroker, order: Any
) -> None:
    broker.publish(SOURCE, "a", order())
    broker.publish(SOURCE, "b", order(segment="AUTOMOBILE"))
    broker.publish(SOURCE, "c", order(revision=2))
    stage.drain()
    sent = broker.records(NEXT)
    ids = [envelope.read_internal(record.headers).id for record in sent]
    assert len(ids) == 3
    assert len(set(ids)) == 2
    assert len({record.partition for record in sent}) == 1


def test_a_redelivered_record_is_taken_once(stage: StageDriver, broker: MemoryBroker, order: Any, drive: Any) -> None:
    broker.publish(SOURCE, "a", order())
    stage.drain()
    broker.offsets.clear()
    stage.crash()
    again = drive(stage.spec, "another disk")
    again.drain()
    assert len(broker.records(NEXT)) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("order_id", ""),
        ("order_id", "x" * 65),
        ("revision", 0),
        ("revision", -1),
        ("customer_id", ""),
        ("total_minor", 0),
        ("total_minor", -1),
        ("currency", ""),
        ("currency", "eur"),
        ("currency", "EUR\n"),
        ("ordered_on", "21.11.2026"),
        ("ordered_on", ""),
    ],
)
def test_an_invalid_field_is_a_dead_letter_that_names_the_field_and_the_rule(
    stage: StageDriver, broker: MemoryBroker, order: Any, contracts: Contracts, field: str, value: Any
) -> None:
    raw = order(**{field: value})
    broker.publish(SOURCE, "7", raw)
    broker.publish(SOURCE, "8", order(order_id="8"))
    stage.drain()
    (letter,) = stage.letters()
    rule = next(each.valid for each in contracts["orders/order-accepted.v1"].fields if each.name == field)
    assert (letter["failure_class"], letter["field"], letter["value"]) == ("contract", field, raw)
    assert ("must be given" if value == "" else rule) in letter["message"]
    assert letter["attempts"] == 1
    assert len(broker.records(NEXT)) == 1, "the stage goes on"


@pytest.mark.parametrize("field", ["order_id", "revision", "customer_id", "total_minor", "currency", "ordered_on"])
def test_a_missing_critical_field_is_refused_by_name(contracts: Contracts, order: Any, field: str) -> None:
    """Avro bytes can't lack a field; an event that reaches the handler by another way can."""
    body = {name: each for name, each in contracts.decode(order())[1].items() if name != field}
    with pytest.raises(ContractBroken) as error:
        handle(contracts, body)
    assert error.value.field == field


@pytest.mark.parametrize("size", [1, MAX_ROUTE_BYTES])
def test_a_route_may_have_up_to_400_bytes(contracts: Contracts, order: Any, size: int) -> None:
    (output,) = handle(contracts, contracts.decode(order(customer_id="x" * size))[1], key="customer_id")
    assert len(output.key) == size


@pytest.mark.parametrize("route", ["x" * (MAX_ROUTE_BYTES + 1), "ü" * (MAX_ROUTE_BYTES // 2 + 1)])
def test_a_route_that_is_too_long_is_refused_by_the_name_of_its_field(
    contracts: Contracts, order: Any, route: str
) -> None:
    with pytest.raises(ContractBroken, match="must have 1 to 400 bytes") as error:
        handle(contracts, contracts.decode(order(customer_id=route))[1], key="customer_id")
    assert error.value.field == "customer_id"


def test_headers_from_outside_steer_nothing(stage: StageDriver, broker: MemoryBroker, order: Any) -> None:
    forged_run = Run("01234567-89ab-8def-8123-456789abcdef", "another-flow", 99)
    forged = (
        *write_internal("forged id", "handrail/command.v1", TRACE, forged_run, "forged", "forged route"),
        write_replay(Replay("0" * 36, 1, SOURCE, 0, 0)),
        ("hr-retry", b"1"),
    )
    for partition_key in ("a", "b"):
        broker.publish(SOURCE, partition_key, order(), forged)
    stage.drain()
    metas = [envelope.read_internal(record.headers) for record in broker.records(NEXT)]
    run = run_id("order-to-invoice", {"order_id": "7", "revision": "1"})
    assert [(meta.id, meta.run, meta.route) for meta in metas] == [(run, Run(run, "order-to-invoice", 1), "7")] * 2
    assert stage.stage.ready(), "a forged version pauses nothing"
    assert stage.letters() == []


def test_the_trace_of_the_world_goes_on(stage: StageDriver, broker: MemoryBroker, order: Any) -> None:
    broker.publish(SOURCE, "a", order(), (("traceparent", TRACE.encode()),))
    broker.publish(SOURCE, "b", order(revision=2), (("traceparent", b"nonsense"),))
    stage.drain()
    metas = [envelope.read_internal(record.headers) for record in broker.records(NEXT)]
    assert metas[0].traceparent is not None
    assert metas[0].traceparent.split("-")[1] == TRACE.split("-")[1]
    assert metas[1].traceparent != "nonsense"


@pytest.mark.parametrize(
    "headers",
    [tuple((f"x-{number}", b"") for number in range(33)), (("x", b"y" * 9_000),)],
    ids=["33 headers", "9000 bytes"],
)
def test_too_many_headers_are_a_dead_letter(
    stage: StageDriver, broker: MemoryBroker, order: Any, headers: tuple[tuple[str, bytes], ...]
) -> None:
    broker.publish(SOURCE, "a", order(), headers)
    stage.drain()
    (letter,) = stage.letters()
    assert letter["failure_class"] == "contract"
    assert "header" in letter["message"]


@pytest.mark.parametrize(
    ("value", "failure_class", "says"),
    [
        (None, "poison", "no value"),
        (b"", "poison", "Confluent wire format"),
        (b'{"order_id": "7"}', "poison", "Confluent wire format"),
        (b"\x00\x01", "poison", "Confluent wire format"),
        (b"\x00\x00\x00\x00\x07x", "contract", "schema"),
    ],
)
def test_what_can_not_be_read_is_a_dead_letter_at_its_coordinates(
    stage: StageDriver, broker: MemoryBroker, order: Any, value: bytes | None, failure_class: str, says: str
) -> None:
    record = broker.publish(SOURCE, "a", value)
    broker.publish(SOURCE, "a", order())
    stage.drain()
    (letter,) = stage.letters()
    assert (letter["failure_class"], letter["value"], letter["run"]) == (failure_class, value, None)
    assert (letter["topic"], letter["partition"], letter["offset"]) == (SOURCE, record.partition, record.offset)
    assert says in letter["message"]
    assert len(broker.records(NEXT)) == 1


def test_bytes_cut_short_and_bytes_left_over_are_poison(stage: StageDriver, broker: MemoryBroker, order: Any) -> None:
    broker.publish(SOURCE, "a", order()[:-1])
    broker.publish(SOURCE, "a", order() + b"\x00")
    stage.drain()
    assert [letter["failure_class"] for letter in stage.letters()] == ["poison", "poison"]


def test_another_contract_on_the_topic_is_a_dead_letter(
    stage: StageDriver, broker: MemoryBroker, contracts: Contracts
) -> None:
    request = {"reference": "7/1", "customer_id": "c", "total_minor": 1, "currency": "EUR"}
    broker.publish(SOURCE, "a", contracts.encode("billing/invoice-request.v1", request))
    stage.drain()
    (letter,) = stage.letters()
    assert letter["failure_class"] == "contract"
    assert "billing/invoice-request.v1 is not taken here" in letter["message"]


def test_no_event_waits_for_another_of_its_key(stage: StageDriver, broker: MemoryBroker, order: Any) -> None:
    broker.publish(SOURCE, "7", order(total_minor=0))
    broker.publish(SOURCE, "7", order(revision=2))
    stage.drain()
    assert len(broker.records(NEXT)) == 1


def test_a_timer_is_a_mistake_of_ours(contracts: Contracts) -> None:
    with pytest.raises(TypeError, match="sets no timers"):
        handler(contracts)(Due("x", "k", b"", 0), NO_VIEW)


NO_VIEW: View = None  # type: ignore[assignment]


def handler(contracts: Contracts, key: str = "order_id") -> Ingest:
    def check(contract: str, body: Mapping[str, Any]) -> None:
        contracts.check(contracts[contract], body)

    return Ingest("order-to-invoice", 1, key, ("order_id", "revision"), check)


def handle(contracts: Contracts, body: Mapping[str, Any], key: str = "order_id") -> list[Any]:
    message = Message("a", "k", "orders/order-accepted.v1", body, b"", 0)
    return list(handler(contracts, key)(message, NO_VIEW))
