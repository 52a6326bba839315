"""The evidence is all that is committed, wherever it is, and nothing else."""

from __future__ import annotations

import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer
from handrail.contracts import Contracts
from handrail.envelope import Replay, write_internal, write_public, write_replay
from handrail.kafka.admin import connect
from handrail.kafka.inspect import describe
from handrail.kafka.provision import provision
from handrail.kafka.topics import GroupSpec, TopicSpec, Topology
from handrail.testing.broker import Broker
from handrail_chaos.checker import check
from handrail_chaos.errors import ChaosError
from handrail_chaos.evidence import Effect, Evidence, Role, Stage
from handrail_chaos.gathering import deployment, gather
from handrail_demo.plain import PlainContracts
from handrail_sandbox.client import running_sandbox

ROOT = Path(__file__).parents[2]
ORDER = "orders/order-accepted.v1"
CONTRACTS = Contracts.load(ROOT / "contracts")
FIELDS = {
    "order_id": "7", "revision": 1, "customer_id": "c1", "customer_name": None, "segment": "unknown",
    "account_balance_minor": 0, "total_minor": 500, "currency": "EUR", "ordered_on": "2026-11-21",
}  # fmt: skip


class Place:
    """One stage's topics on a real broker, written to by hand."""

    def __init__(self, bootstrap: str, *, public: bool = False) -> None:
        self.bootstrap = bootstrap
        name = f"gather-{time.time_ns()}"
        self.stage = Stage(
            name, Role.COPY, f"{name}.in", f"{name}.letters", (f"{name}.out",), (f"{name}.out",), public=public
        )
        names = [f"{name}.{kind}" for kind in ("in", "out", "letters", "replay", "state", "marks", "delayed")]
        topics = tuple(TopicSpec(each, "", 2, {}) for each in names)
        provision(bootstrap, Topology(topics, (GroupSpec(name, f"{name}.in"),), 1))
        self.producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name})
        self.producer.init_transactions(30)

    def write(self, kind: str, value: bytes | None, key: bytes = b"7", headers: object = (), *, end: str) -> None:
        """One record in a transaction that is committed, aborted, or left open."""
        self.producer.begin_transaction()
        self.producer.produce(f"{self.stage.name}.{kind}", value, key, 0, headers=list(headers))  # type: ignore[call-overload]
        self.producer.flush(30)
        if end == "commit":
            self.producer.commit_transaction(30)
        elif end == "abort":
            self.producer.abort_transaction(30)

    def gathered(self, within_s: float = 20.0) -> Evidence:
        return gather(self.bootstrap, (), (self.stage,), PlainContracts(ROOT / "contracts"), within_s=within_s)


@pytest.fixture
def place(kafka: Broker) -> Place:
    return Place(kafka.bootstrap)


pytestmark = pytest.mark.kafka


def test_committed_records_are_there_with_their_names_and_aborted_ones_are_not(place: Place) -> None:
    value = CONTRACTS.encode(ORDER, FIELDS)
    headers = write_internal("7/1", ORDER, None, None, "the cause", "7")
    place.write("in", value, headers=headers, end="commit")
    place.write("in", value, headers=write_internal("7/2", ORDER, None, None, "", "7"), end="abort")
    topic = place.gathered().topic(place.stage.inbox)
    (record,) = topic.records
    assert (record.partition, record.offset, record.key) == (0, 0, b"7")
    assert (record.id, record.event, record.cause, record.contract) == ("7/1", "7/1", "the cause", ORDER)
    assert record.body == {"order_id": "7", "revision": 1}
    assert topic.ends == {0: 4, 1: 0}
    assert topic.hidden == ()


def test_positions_are_those_of_the_group(place: Place) -> None:
    (stage,) = place.gathered().stages
    assert stage.positions == {0: 0, 1: 0}


def test_of_a_compacted_topic_there_is_the_newest_of_each_key(place: Place) -> None:
    for value in (b"one", b"two"):
        place.write("state", value, b"row", end="commit")
    place.write("state", b"other", b"gone", end="commit")
    place.write("state", None, b"gone", end="commit")
    records = place.gathered().topic(f"{place.stage.name}.state").records
    assert [(record.key, record.value) for record in records] == [(b"row", b"two"), (b"gone", None)]


def test_an_open_transaction_is_told_and_not_waited_for_for_ever(place: Place) -> None:
    place.write("marks", bytes(16), end="open")
    evidence = place.gathered(within_s=3.0)
    assert evidence.topic(f"{place.stage.name}.marks").hidden == (0,)
    assert any("open transaction" in wrong.why for wrong in check(evidence).torn)
    place.producer.abort_transaction(30)
    assert place.gathered().topic(f"{place.stage.name}.marks").hidden == ()


def test_a_replayed_record_is_its_original(place: Place) -> None:
    replay = write_replay(Replay("0" * 36, 2, place.stage.inbox, 1, 42))
    place.write("replay", b"", headers=[*write_internal("7/1", ORDER, None, None, "", "7"), replay], end="commit")
    (record,) = place.gathered().topic(f"{place.stage.name}.replay").records
    assert (record.event, record.replay) == ("7/1", 2)


def test_what_the_world_writes_is_known_by_its_coordinates(kafka: Broker) -> None:
    place = Place(kafka.bootstrap, public=True)
    headers = write_public("forged", ORDER, "somebody", "7", "2026-11-21T00:00:00Z", None)
    place.write("in", b"\xff", headers=headers, end="commit")
    replay = write_replay(Replay("0" * 36, 1, place.stage.inbox, 1, 42))
    place.write("replay", b"", headers=[*headers, replay], end="commit")
    evidence = place.gathered()
    (record,) = evidence.topic(place.stage.inbox).records
    assert (record.event, record.body) == (f"{place.stage.inbox}/0/0", None)
    (record,) = evidence.topic(f"{place.stage.name}.replay").records
    assert (record.event, record.replay) == (f"{place.stage.inbox}/1/42", 1)


def test_the_books_are_read_from_the_systems_own_database(place: Place, tmp_path: Path) -> None:
    db = tmp_path / "books.sqlite"
    with running_sandbox(db) as sandbox:
        assert sandbox.ready()
        body = b'{"reference": "7/1", "customer_id": "c1", "total_minor": 5, "currency": "EUR"}'
        headers = {"Content-Type": "application/json", "Idempotency-Key": "run/invoice/r1"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{sandbox.url}/billing/invoices", body, headers), timeout=10
        ):
            pass
    evidence = gather(place.bootstrap, (), (place.stage,), PlainContracts(ROOT / "contracts"), books=db)
    assert evidence.effects == (Effect(1, "billing", "invoice", "7/1", "run/invoice/r1", 1),)
    (call,) = evidence.calls
    assert (call.operation, call.reference, call.status, call.ending) == ("create-invoice", "7/1", 201, "replied")


def test_what_everybody_writes_is_no_evidence_of_a_stage_alone(place: Place) -> None:
    """The broker may be shared with whole deployments: their runs are not this stage's."""
    if "runs" not in describe(connect(place.bootstrap)):
        provision(place.bootstrap, Topology((TopicSpec("runs", "", 2, {}),), (), 1))
    producer = Producer({"bootstrap.servers": place.bootstrap})
    producer.produce("runs", b"somebody else's", b"7", 0)
    assert producer.flush(30) == 0
    assert place.gathered().topic("runs").records == ()


def test_a_stage_without_its_topics_is_named(place: Place) -> None:
    nowhere = replace(place.stage, inbox="nowhere")
    with pytest.raises(ChaosError, match="there is no topic nowhere"):
        gather(place.bootstrap, (), (nowhere,), PlainContracts(ROOT / "contracts"))


def test_the_stages_of_a_deployment_are_those_of_the_services() -> None:
    names = [stage.name for stage in deployment("order-to-invoice", "ingest.orders.order-accepted", ["billing"])]
    assert names == [
        "order-to-invoice.ingest.orders.order-accepted", "order-to-invoice.transform", "order-to-invoice.decision",
        "action.billing", "recovery.commands", "recovery.letters",
    ]  # fmt: skip
