"""A plain consumer understands every topic with contracts/ alone."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from handrail.contracts import Contracts
from handrail.contracts.samples import Sample, find_samples
from handrail.testing.broker import Broker
from handrail_demo.errors import DemoError
from handrail_demo.plain import PlainContracts, read_topic

FOLDER = Path(__file__).parents[2] / "contracts"
INVOICE = {"invoice_id": "INV-1", "reference": "1/1", "customer_id": "7", "total_minor": 100, "currency": "EUR"}
CONTRACT = "billing/invoice.v1"


@pytest.fixture(scope="module")
def plain() -> PlainContracts:
    return PlainContracts(FOLDER)


TAKEN = [sample for sample in find_samples(FOLDER) if sample.why is None]


@pytest.mark.parametrize("sample", TAKEN, ids=lambda sample: sample.file.name)
def test_it_reads_and_writes_what_the_library_writes_and_reads(plain: PlainContracts, sample: Sample) -> None:
    library = Contracts.load(FOLDER)
    data = library.encode(sample.contract, sample.value)
    name, decoded = plain.decode(data)
    assert (name, decoded) == (sample.contract, library.decode(data)[1])
    assert plain.encode(name, decoded) == data


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not in the Confluent wire format"),
        (b"\x01\x00\x00\x00\x01", "not in the Confluent wire format"),
        (b"\x00\x00\x00\x00\x01", "schema id 1 is not in contracts.lock"),
    ],
)
def test_bytes_that_are_no_message_are_refused(plain: PlainContracts, data: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        plain.decode(data)


def test_a_message_must_be_whole_and_nothing_more(plain: PlainContracts) -> None:
    good = plain.encode(CONTRACT, INVOICE)
    assert plain.decode(good) == (CONTRACT, INVOICE)
    with pytest.raises(ValueError, match="not an Avro"):
        plain.decode(good[:-1])
    with pytest.raises(ValueError, match="bytes are left"):
        plain.decode(good + b"x")


def test_a_folder_without_contracts_is_said(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="run `handrail contracts lock`"):
        PlainContracts(tmp_path)


def made_topic(broker: Broker, partitions: int = 2) -> str:
    name = f"plain-{uuid.uuid4()}"
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.create_topics([NewTopic(name, partitions, 1)])[name].result()
    return name


def transactional(broker: Broker) -> Producer:
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap, "transactional.id": f"plain-{uuid.uuid4()}", "linger.ms": 0}
    )
    producer.init_transactions(20)
    return producer


@pytest.mark.kafka
def test_what_was_committed_is_read_and_what_was_aborted_is_not(kafka: Broker, plain: PlainContracts) -> None:
    topic = made_topic(kafka)
    producer = transactional(kafka)
    producer.begin_transaction()
    producer.produce(topic, plain.encode(CONTRACT, INVOICE), b"k", partition=0)
    producer.produce(topic, None, b"gone", partition=0)
    producer.commit_transaction(20)
    producer.begin_transaction()
    producer.produce(topic, plain.encode(CONTRACT, INVOICE), b"aborted", partition=1)
    producer.flush(20)
    producer.abort_transaction(20)

    records = read_topic(kafka.bootstrap, topic, plain)
    assert [(one.partition, one.offset, one.key, one.contract, one.value) for one in records] == [
        (0, 0, b"k", CONTRACT, INVOICE),
        (0, 1, b"gone", None, None),
    ]


@pytest.mark.kafka
def test_an_empty_topic_has_no_records_and_a_missing_one_is_said(kafka: Broker, plain: PlainContracts) -> None:
    assert read_topic(kafka.bootstrap, made_topic(kafka), plain) == []
    with pytest.raises(DemoError, match="there is no topic plain-nowhere"):
        read_topic(kafka.bootstrap, "plain-nowhere", plain)


@pytest.mark.kafka
def test_an_open_transaction_is_waited_for_and_never_skipped(kafka: Broker, plain: PlainContracts) -> None:
    topic = made_topic(kafka, 1)
    hanging, other = transactional(kafka), transactional(kafka)
    hanging.begin_transaction()
    hanging.produce(topic, plain.encode(CONTRACT, INVOICE), b"open", partition=0)
    hanging.flush(20)
    other.begin_transaction()
    other.produce(topic, plain.encode(CONTRACT, INVOICE), b"hidden", partition=0)
    other.commit_transaction(20)

    with pytest.raises(DemoError, match="a transaction is open"):
        read_topic(kafka.bootstrap, topic, plain, within_s=1.5)
    hanging.abort_transaction(20)
    assert [one.key for one in read_topic(kafka.bootstrap, topic, plain)] == [b"hidden"]


@pytest.mark.kafka
def test_a_record_that_does_not_decode_is_named(kafka: Broker, plain: PlainContracts) -> None:
    topic = made_topic(kafka, 1)
    producer = transactional(kafka)
    producer.begin_transaction()
    producer.produce(topic, b"nonsense", b"k", partition=0)
    producer.commit_transaction(20)
    with pytest.raises(DemoError, match=f"{topic}/0/0: not in the Confluent wire format"):
        read_topic(kafka.bootstrap, topic, plain)


def test_a_broker_that_is_not_there_is_said(plain: PlainContracts) -> None:
    with pytest.raises(DemoError, match=r"can't be read at 127\.0\.0\.1:1"):
        read_topic("127.0.0.1:1", "runs", plain, within_s=1)
