"""`handrail publish`: what is refused before Kafka is asked, and what Kafka then has."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from handrail.cli.publish import publish
from handrail.contracts import Contracts
from handrail.contracts.jsonlines import BadLine, Line, key_field, read_lines
from handrail.errors import ConfigError, Unreachable
from handrail.kafka.publishing import Acknowledged, Outgoing, publish_records, publisher, require_topic
from handrail.testing.otlp import Collector
from typer.testing import CliRunner, Result

CONTRACTS = Path(__file__).parents[2] / "contracts"
ACCEPTED = "orders/order-accepted.v1"
NOBODY = "127.0.0.1:9"  # the discard port: nothing listens there
ORDER: dict[str, Any] = {
    "order_id": "4711",
    "revision": 1,
    "customer_id": "c-815",
    "account_balance_minor": 0,
    "total_minor": 129900,
    "currency": "EUR",
    "ordered_on": "2026-01-01",
}


def run(*words: str, bootstrap: str = NOBODY, **env: str) -> Result:
    app = typer.Typer()
    app.command()(publish)
    settings = {"HANDRAIL_CONTRACTS": str(CONTRACTS), "HANDRAIL_BOOTSTRAP": bootstrap} | env
    return CliRunner().invoke(app, list(words), env=settings)


def lines(folder: Path, *values: Any) -> Path:
    """A file with one line for each value; a text is the line itself."""
    file = folder / "orders.jsonl"
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    file.write_text("".join(text + "\n" for text in texts), "utf-8")
    return file


def order(number: int, **change: Any) -> dict[str, Any]:
    return ORDER | {"order_id": str(number)} | change


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "is not JSON"),
        ("[]", "must be an object with fields"),
        ('{"order_id": NaN}', "is not JSON: NaN"),
        (order(2, total_minor=-1), "total_minor is not valid: value > 0"),
        (order(2, customer_id=""), "customer_id is empty"),
        (order(2, ordered=1), "ordered is not in the contract; did you mean ordered_on?"),
    ],
)
def test_a_bad_line_is_told_with_its_place_and_nothing_is_sent(tmp_path: Path, line: Any, why: str) -> None:
    file = lines(tmp_path, order(1), line)
    result = run(ACCEPTED, str(file))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{file}:2: ")
    assert why in result.stderr
    assert "nothing was sent" in result.stderr


def test_many_bad_lines_are_summed_up(tmp_path: Path) -> None:
    result = run(ACCEPTED, str(lines(tmp_path, *["x"] * 30)))
    assert len(result.stderr.splitlines()) == 22
    assert "… and 10 more" in result.stderr
    assert "30 bad lines" in result.stderr


def test_a_line_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "orders.jsonl").write_bytes(b'{"order_id": "\xff"}\n')
    assert "orders.jsonl:1: is not JSON" in run(ACCEPTED, str(tmp_path / "orders.jsonl")).stderr


def test_blank_lines_are_left_out_but_counted(tmp_path: Path) -> None:
    contracts = Contracts.load(CONTRACTS)
    file = lines(tmp_path, order(1), "", order(2, revision=0), order(3))
    first, bad, last = read_lines(contracts, contracts[ACCEPTED], file, "order_id")
    assert isinstance(first, Line)
    assert isinstance(bad, BadLine)
    assert isinstance(last, Line)
    assert (first.number, bad.number, last.number) == (1, 3, 4)
    assert (first.key, last.key) == ("1", "3")
    assert contracts.decode(last.value)[1]["order_id"] == "3"


def test_the_key_is_the_first_field_or_the_one_that_is_named() -> None:
    contract = Contracts.load(CONTRACTS)[ACCEPTED]
    assert key_field(contract, None) == "order_id"
    assert key_field(contract, "customer_id") == "customer_id"
    with pytest.raises(
        ConfigError, match=r"--key customer: orders/order-accepted.v1 has no such field; it has order_id"
    ):
        key_field(contract, "customer")


def test_an_unknown_contract_is_told(tmp_path: Path) -> None:
    result = run("orders/order-acepted.v1", str(lines(tmp_path, order(1))))
    assert "did you mean orders/order-accepted.v1?" in str(result.exception)


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    assert run(ACCEPTED, str(tmp_path / "none.jsonl")).exit_code == 2


def test_without_kafka_it_says_how_to_start_it() -> None:
    with pytest.raises(Unreachable, match="handrail up"):
        require_topic(NOBODY, "ingest.orders.order-accepted", within_s=0.5)


def test_a_kafka_that_stops_answering_is_told_with_what_was_acknowledged() -> None:
    settings = publisher(NOBODY) | {"message.timeout.ms": 500}
    with pytest.raises(Unreachable, match="Kafka stopped answering after 0 records were acknowledged"):
        publish_records(settings, "ingest.orders.order-accepted", [(b"k", b"x", [])], lambda _: None)


def test_an_error_while_records_are_made_is_not_hidden() -> None:
    def broken() -> Iterator[Outgoing]:
        raise ZeroDivisionError
        yield (None, None, [])

    with pytest.raises(ZeroDivisionError):
        publish_records(publisher(NOBODY), "t", broken(), lambda _: None)


def test_the_producer_is_idempotent_and_waits_for_every_replica() -> None:
    settings = publisher("here:1")
    assert (settings["enable.idempotence"], settings["acks"], settings["partitioner"]) == (
        True,
        "all",
        "murmur2_random",
    )


@pytest.fixture
def topic(kafka: Any) -> str:
    """A topic of its own, with three partitions."""
    name = f"publish.{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([NewTopic(name, 3, 1)])[name].result(30)
    return name


def records(bootstrap: str, topic: str, count: int) -> list[Any]:
    """The first `count` records of all three partitions."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "isolation.level": "read_committed"}
    )
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(3)])
        return consumer.consume(count, 30)
    finally:
        consumer.close()


@pytest.mark.kafka
def test_what_the_manifest_says_is_what_kafka_has(kafka: Any, topic: str, tmp_path: Path) -> None:
    file = lines(tmp_path, *(order(number) for number in range(20)))
    manifest = tmp_path / "sent.jsonl"
    result = run(
        ACCEPTED, str(file), "--topic", topic, "--manifest", str(manifest), "--json", bootstrap=kafka.bootstrap
    )
    assert result.exit_code == 0, result.stderr + repr(result.exception)
    assert json.loads(result.stdout) | {"seconds": 0} == {"published": 20, "refused": 0, "topic": topic, "seconds": 0}
    sent = [json.loads(line) for line in manifest.read_text().splitlines()]
    found = {(record.partition(), record.offset()): record for record in records(kafka.bootstrap, topic, 20)}
    assert sorted(entry["line"] for entry in sent) == list(range(1, 21))
    contracts = Contracts.load(CONTRACTS)
    for entry in sent:
        record = found.pop((entry["partition"], entry["offset"]))
        _, value = contracts.decode(record.value(), ACCEPTED)
        headers = dict(record.headers())
        assert record.key().decode() == entry["key"] == value["order_id"] == str(entry["line"] - 1)
        assert headers["ce_type"].decode() == ACCEPTED
        assert headers["ce_subject"].decode() == entry["key"]
    assert found == {}


@pytest.mark.kafka
def test_bad_lines_are_left_out_on_request(kafka: Any, topic: str, tmp_path: Path) -> None:
    file = lines(tmp_path, order(1), order(2, revision=0), order(3))
    result = run(ACCEPTED, str(file), "--topic", topic, "--skip-bad", "--key", "customer_id", bootstrap=kafka.bootstrap)
    assert (result.exit_code, "published=2 refused=1" in result.stdout) == (0, True), result.stderr
    assert f"{file}:2: " in result.stderr
    assert [record.key() for record in records(kafka.bootstrap, topic, 2)] == [b"c-815"] * 2


@pytest.mark.kafka
def test_a_topic_that_is_not_there_is_told_and_not_made(kafka: Any, tmp_path: Path) -> None:
    name = f"publish.{uuid.uuid4().hex[:8]}"
    result = run(ACCEPTED, str(lines(tmp_path, order(1))), "--topic", name, bootstrap=kafka.bootstrap)
    assert isinstance(result.exception, ConfigError)
    assert f"has no topic {name}" in str(result.exception)
    assert name not in AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=10).topics


@pytest.mark.kafka
def test_raw_bytes_are_published_as_they_are(kafka: Any, topic: str) -> None:
    given = [(b"k", b"\xde\xad\xbe\xef", [("h", b"1"), ("empty", None)]), (None, b"", []), (b"k", None, [])]
    acknowledged: list[Acknowledged] = []
    count = publish_records(
        publisher(kafka.bootstrap), topic, given, acknowledged.append, partition=lambda key: 2 if key is None else 1
    )
    found = {(each.partition(), each.offset()): each for each in records(kafka.bootstrap, topic, 3)}
    assert count == 3
    for each in acknowledged:
        record = found[each.partition, each.offset]
        assert (record.key(), record.value(), record.headers() or []) == given[each.index]


@pytest.mark.kafka
def test_an_error_of_the_listener_is_not_swallowed(kafka: Any, topic: str) -> None:
    def full(_: Acknowledged) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        publish_records(publisher(kafka.bootstrap), topic, [(None, b"x", [])], full)


@pytest.mark.kafka
def test_a_record_that_kafka_refuses_is_told_with_what_was_acknowledged(kafka: Any, topic: str) -> None:
    large = bytes(4_000_000)
    with pytest.raises(ConfigError, match="Kafka refused a record"):
        publish_records(publisher(kafka.bootstrap), topic, [(None, b"x", []), (None, large, [])], lambda _: None)


@pytest.mark.kafka
def test_the_rate_is_kept(kafka: Any, topic: str) -> None:
    times: list[int] = []
    publish_records(
        publisher(kafka.bootstrap), topic, [(b"k", b"x", [])] * 6, lambda each: times.append(each.timestamp), rate=10
    )
    assert max(times) - min(times) >= 450


@pytest.mark.kafka
def test_what_is_published_begins_a_trace(kafka: Any, topic: str, tmp_path: Path) -> None:
    with Collector() as collector:
        run(
            ACCEPTED,
            str(lines(tmp_path, order(1))),
            "--topic",
            topic,
            bootstrap=kafka.bootstrap,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )
        (span,) = collector.spans()
    (record,) = records(kafka.bootstrap, topic, 1)
    assert dict(record.headers())["traceparent"].decode() == f"00-{span.trace}-{span.id}-01"
    assert (span.operation, span.name) == ("publish.publish", f"publish {topic}")
