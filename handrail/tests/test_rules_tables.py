"""Local tables that broke: they are wiped and restored, and no good message pays for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.errors import StateError
from handrail.identity import mark
from handrail.message import Due, Finished, Message, Output
from handrail.pending import View
from handrail.spec import Spec
from handrail.testing.driver import StageDriver
from handrail.testing.memory import MemoryBroker

CONTRACTS = Contracts.load(Path(__file__).parents[2] / "contracts")
ORDER = "orders/order-accepted.v1"
NAME = "flow.transform"
PAGE = 4096
FIELDS = {
    "order_id": "7", "revision": 1, "customer_id": "c1", "customer_name": None, "segment": "unknown",
    "account_balance_minor": 0, "total_minor": 500, "currency": "EUR", "ordered_on": "2026-11-21",
}  # fmt: skip


def remember(given: Message | Due | Finished, view: View) -> Iterable[Output]:
    """Looks at its row, keeps the order in it, and sends it on."""
    assert isinstance(given, Message)
    view.get("orders", given.key)
    view.put("orders", given.key, given.body)
    yield Output("out", ORDER, given.key, value=given.value)


SPEC = Spec(
    name=NAME,
    inbox=NAME,
    accepts=frozenset({ORDER}),
    handler=remember,
    partitions=lambda _topic: 1,
    knows=lambda _flow, _version: True,
    tables={"orders": ORDER},
)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def drive(broker: MemoryBroker, tmp_path: Path) -> Iterator[Callable[[], StageDriver]]:
    drivers: list[StageDriver] = []

    def start() -> StageDriver:
        drivers.append(StageDriver(broker, SPEC, CONTRACTS, tmp_path))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.crash()


def send(driver: StageDriver, count: int, revision: int = 1) -> None:
    """The same orders for the same revision: copies, the second time."""
    for n in range(count):
        value = CONTRACTS.encode(ORDER, FIELDS | {"order_id": f"order-{n}", "revision": revision})
        driver.send(ORDER, f"order-{n}", value, id=str(n) if revision == 1 else f"{n}/{revision}")


@pytest.fixture
def folder(drive: Any, tmp_path: Path) -> Path:
    """The tables of a stage that has handled 150 orders and ended."""
    first = drive()
    send(first, 150)
    first.drain()
    first.crash()
    return tmp_path / NAME / "0"


def test_tables_whose_boot_file_is_no_text_are_wiped_and_restored(
    drive: Any, broker: MemoryBroker, folder: Path
) -> None:
    (folder / "boot").write_bytes(b"\xff\xfe\x00")
    again = drive()
    send(again, 150)
    again.drain()
    assert len(broker.records("out")) == 150
    assert again.stage.counters["duplicates"] == 150


@pytest.mark.parametrize("what", ["the first row", "a row", "a mark"])
def test_a_page_that_broke_ends_the_process_and_the_next_start_restores_from_kafka(
    drive: Any, broker: MemoryBroker, folder: Path, what: str
) -> None:
    inside = {"the first row": b"t/orders/order-0", "a row": b"t/orders/order-77", "a mark": mark("77")}[what]
    file = folder / "data.mdb"
    raw = file.read_bytes()
    pages = [raw[at : at + PAGE] for at in range(0, len(raw), PAGE)]
    assert any(inside in page for page in pages)
    file.write_bytes(b"".join(bytes(PAGE) if inside in page else page for page in pages))
    again = drive()
    send(again, 150)
    send(again, 150, revision=2)
    with pytest.raises(StateError, match="restored from Kafka"):
        again.drain()
    again.crash()
    mended = drive()
    mended.drain()
    assert mended.letters() == []
    assert len(broker.records("out")) == 300
