"""What the tests of several services share: the real contracts and flows, and stages on a broker in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.flow import Flows
from handrail.kafka.inspect import TopicInfo
from handrail.service import Deployment
from handrail.settings import Settings
from handrail.spec import Spec
from handrail.telemetry import Telemetry
from handrail.testing.driver import StageDriver
from handrail.testing.memory import MemoryBroker

ROOT = Path(__file__).parents[1]
FLOW = "order-to-invoice"
STAGES = {
    f"{FLOW}.ingest.orders.order-accepted": 3,
    f"{FLOW}.transform": 2,
    f"{FLOW}.decision": 2,
    "recovery.commands": 1,
    "recovery.letters": 2,
}
TOPICS: Mapping[str, int] = {
    "ingest.orders.order-accepted": 3,
    f"{FLOW}.transform": 2,
    f"{FLOW}.decision": 2,
    f"{FLOW}.done": 2,
    "action.billing": 2,
    "runs": 2,
    "tasks": 2,
    "dead-letters": 2,
    "dead-letters.quarantine": 1,
    "recovery.commands": 1,
    "recovery.states": 1,
    "audit": 1,
    "out": 1,
} | {f"{stage}.{kind}": count for stage, count in STAGES.items() for kind in ("state", "marks", "delayed", "replay")}
ORDER: dict[str, Any] = {
    "order_id": "7",
    "revision": 1,
    "customer_id": "c1",
    "customer_name": None,
    "segment": "unknown",
    "account_balance_minor": 0,
    "total_minor": 500,
    "currency": "EUR",
    "ordered_on": "2026-11-21",
}


@pytest.fixture(scope="session")
def deployment() -> Deployment:
    """What a service is built from, without Kafka."""
    contracts = Contracts.load(ROOT / "contracts")
    return Deployment(
        service="test",
        settings=Settings.from_env({"HANDRAIL_HOME": "nowhere"}),
        contracts=contracts,
        flows=Flows.load(ROOT / "flows", ROOT / "systems", contracts),
        topics={name: TopicInfo(name, count) for name, count in TOPICS.items()},
        telemetry=Telemetry.from_env("test", {}),
        window_ms=14 * 24 * 3_600_000,
    )


@pytest.fixture(scope="session")
def contracts(deployment: Deployment) -> Contracts:
    return deployment.contracts


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(partitions=dict(TOPICS))


@pytest.fixture
def drive(broker: MemoryBroker, contracts: Contracts, tmp_path: Path) -> Iterator[Callable[..., StageDriver]]:
    """Starts a stage from its spec; `home` names its local folder."""
    drivers: list[StageDriver] = []

    def start(spec: Spec, home: str = "home") -> StageDriver:
        drivers.append(StageDriver(broker, spec, contracts, tmp_path / home))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.crash()


@pytest.fixture
def order(contracts: Contracts) -> Callable[..., bytes]:
    """An order in the Confluent wire format."""

    def encode(**fields: Any) -> bytes:
        return contracts.encode("orders/order-accepted.v1", ORDER | fields)

    return encode


@pytest.fixture
def bodies(broker: MemoryBroker, contracts: Contracts) -> Callable[[str], list[dict[str, Any]]]:
    """The decoded values of a topic, partition by partition."""

    def read(topic: str) -> list[dict[str, Any]]:
        return [contracts.decode(record.value or b"")[1] for record in broker.records(topic)]

    return read
