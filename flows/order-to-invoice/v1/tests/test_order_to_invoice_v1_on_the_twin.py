"""The flow through its services, on a broker in memory: a pattern for tests of your own flow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import handrail_decision.bootstrap as decision
import handrail_ingest.bootstrap as ingest
import handrail_transform.bootstrap as transform
import pytest
from handrail.testing.twin import Twin

ROOT = Path(__file__).parents[4]
ACCEPTED = "orders/order-accepted.v1"
ORDER = {
    "order_id": "4711",
    "revision": 1,
    "customer_id": "370",
    "customer_name": None,
    "segment": "BUILDING",
    "account_balance_minor": 71_156,
    "total_minor": 17_279_949,
    "currency": "EUR",
    "ordered_on": "1996-01-02",
}


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    made = Twin(ROOT, tmp_path, [ingest.plans, transform.plans, decision.plans])
    yield made
    made.close()


def test_an_order_becomes_one_command_although_it_comes_twice_and_every_stage_crashes(twin: Twin) -> None:
    for _ in range(2):
        twin.publish(ACCEPTED, "4711", ORDER)
        twin.drain()
        for stage in list(twin.stages):
            twin.crash(stage)
    twin.drain()
    (command,) = twin.bodies("action.billing", "4711")
    assert command["step"] == "invoice"
    assert twin.contracts.decode(command["request"])[1]["reference"] == "4711/1"
    assert twin.bodies("dead-letters") == []


@pytest.mark.parametrize("fate", ["aborted", "unknown", "late"])
def test_a_commit_that_goes_wrong_changes_nothing(twin: Twin, fate: str) -> None:
    for driver in twin.stages.values():
        driver.log.fail_next = fate
    twin.publish(ACCEPTED, "4711", ORDER)
    twin.drain()
    assert len(twin.bodies("action.billing")) == 1


def test_an_order_with_a_wrong_currency_is_a_dead_letter_that_names_the_field(twin: Twin) -> None:
    body = twin.contracts.encode(ACCEPTED, {**ORDER, "currency": "EUR"}).replace(b"EUR", b"eur")
    twin.broker.publish("ingest.orders.order-accepted", "4711", body)
    twin.drain()
    (letter,) = twin.bodies("dead-letters")
    assert (letter["failure_class"], letter["field"]) == ("contract", "currency")
