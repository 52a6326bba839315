"""One business event on two partitions, sent by two clients that disagree about partitions: one run, handled once."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.errors import FlowError
from handrail.flow import Flows
from handrail.identity import partition_for
from handrail.kafka.inspect import TopicInfo
from handrail.log import Outgoing
from handrail.service import Deployment
from handrail.settings import Settings
from handrail.spec import Spec
from handrail.telemetry import Telemetry
from handrail.testing.driver import StageDriver
from handrail.testing.memory import MemoryBroker
from handrail_ingest.bootstrap import plans as ingest_plans
from handrail_ingest.handler import Ingest
from handrail_transform.bootstrap import plans as transform_plans

from handrail import envelope

ROOT = Path(__file__).parents[2]
SOURCE, TRANSFORM, DECISION = (
    "ingest.orders.order-accepted",
    "order-to-invoice.transform",
    "order-to-invoice.decision",
)
COUNTS = {SOURCE: 5, TRANSFORM: 3, DECISION: 3, "dead-letters": 3, "out": 1, "recovery.letters.replay": 3}
PRIVATE = {f"{stage}.{kind}": count for stage, count in (("order-to-invoice.ingest.orders.order-accepted", 5),
           (TRANSFORM, 3)) for kind in ("state", "marks", "delayed", "replay")}  # fmt: skip
ORDER = {
    "order_id": "7", "revision": 1, "customer_id": "c1", "customer_name": None, "segment": "unknown",
    "account_balance_minor": 0, "total_minor": 500, "currency": "EUR", "ordered_on": "2026-11-21",
}  # fmt: skip


@pytest.fixture(scope="module")
def deployment() -> Deployment:
    contracts = Contracts.load(ROOT / "contracts")
    return Deployment(
        service="test",
        settings=Settings.from_env({"HANDRAIL_HOME": "nowhere"}),
        contracts=contracts,
        flows=Flows.load(ROOT / "flows", ROOT / "systems", contracts),
        topics={name: TopicInfo(name, count) for name, count in (COUNTS | PRIVATE).items()},
        telemetry=Telemetry.from_env("test", {}),
        window_ms=14 * 24 * 3_600_000,
    )


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(partitions=COUNTS | PRIVATE)


@pytest.fixture
def drain(broker: MemoryBroker, deployment: Deployment, tmp_path: Path) -> Iterator[Callable[[Spec], None]]:
    """Runs a stage until nothing is left."""
    drivers: list[StageDriver] = []

    def drained(spec: Spec) -> None:
        drivers.append(StageDriver(broker, spec, deployment.contracts, tmp_path / str(len(drivers))))
        drivers[-1].drain()

    yield drained
    for driver in drivers:
        driver.crash()


def crc32(key: str, partitions: int) -> int:
    """Where librdkafka's default partitioner (consistent_random) sends a key."""
    return zlib.crc32(key.encode()) % partitions


def by_both(broker: MemoryBroker, deployment: Deployment, orders: list[dict[str, Any]]) -> int:
    """Each order from a Java client and from one on librdkafka, keyed by its id; how many went to two partitions."""
    apart = 0
    for order in orders:
        value = deployment.contracts.encode("orders/order-accepted.v1", ORDER | order)
        key = str(order["order_id"])
        places = partition_for(key, COUNTS[SOURCE]), crc32(key, COUNTS[SOURCE])
        apart += places[0] != places[1]
        for place in places:
            broker.append(Outgoing(SOURCE, place, key.encode(), value))
    return apart


def test_one_event_on_two_partitions_by_two_partitioners_is_handled_once(
    broker: MemoryBroker, deployment: Deployment, drain: Any
) -> None:
    orders = [{"order_id": f"order-{n}", "revision": revision} for n in range(12) for revision in (1, 2, 3)]
    assert by_both(broker, deployment, orders) > 20, "most went to two partitions"
    (ingest,), (transform,) = ingest_plans(deployment), transform_plans(deployment)
    drain(ingest.spec)
    assert len(broker.records(TRANSFORM)) == 2 * len(orders), "ingest knows records, not events"
    for record in broker.records(TRANSFORM):
        assert record.partition == partition_for((record.key or b"").decode(), COUNTS[TRANSFORM])
    drain(transform.spec)
    prepared = broker.records(DECISION)
    runs = [envelope.read_internal(record.headers).run for record in prepared]
    assert len(runs) == len(set(runs)) == len(orders)
    done = [
        deployment.contracts.decode(deployment.contracts.decode(each.value or b"")[1]["event"])[1] for each in prepared
    ]
    for n in range(12):
        key = f"order-{n}"
        assert [each["revision"] for each in done if each["order_id"] == key] == [1, 2, 3], "in the order of the key"


def test_copies_that_differ_in_a_key_that_is_not_part_of_what_tells_events_apart_are_not_found(
    broker: MemoryBroker, deployment: Deployment, drain: Any
) -> None:
    """Why a flow's `key` must be among its `dedupe`: these two are one run by their id, and never meet."""
    (ingest,), (transform,) = ingest_plans(deployment), transform_plans(deployment)
    handler = ingest.spec.handler
    assert isinstance(handler, Ingest)
    for customer in ("c1", "c2"):
        value = deployment.contracts.encode("orders/order-accepted.v1", ORDER | {"customer_id": customer})
        broker.publish(SOURCE, "7", value)
    drain(replace(ingest.spec, handler=replace(handler, key="customer_id", dedupe=("order_id",))))
    drain(transform.spec)
    prepared = [envelope.read_internal(record.headers) for record in broker.records(DECISION)]
    assert len({meta.run for meta in prepared}) == 1
    assert len({record.partition for record in broker.records(DECISION)}) == 2
    assert len(prepared) == 2, "both were handled"


def test_a_flow_whose_key_is_not_part_of_what_tells_events_apart_is_refused(
    deployment: Deployment, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "flows", tmp_path / "flows", ignore=shutil.ignore_patterns("flows.lock"))
    file = tmp_path / "flows" / "order-to-invoice" / "v1" / "flow.yaml"
    text = file.read_text()
    assert "key: order_id, dedupe: [order_id, revision]" in text
    file.write_text(text.replace("key: order_id, dedupe: [order_id, revision]", "key: customer_id, dedupe: [order_id]"))
    with pytest.raises(FlowError, match="customer_id"):
        Flows.load(tmp_path / "flows", ROOT / "systems", deployment.contracts)
