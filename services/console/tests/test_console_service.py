"""The service: it follows the topics, comes back when Kafka was away, and ends when it is asked to."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import TopicPartition as Place
from aiokafka.errors import NodeNotReadyError
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from handrail.clock import SystemClock
from handrail.contracts import Contracts
from handrail.errors import StateError, Unreachable
from handrail.settings import Settings
from handrail_console.commands.ledger import app as ledger_app
from handrail_console.commands.room import Room
from handrail_console.follower import LONGEST_WAIT_S, Follower
from handrail_console.ledger import Ledger
from handrail_console.orders import TOPIC, Said, Sender, letter_order
from handrail_console.projection import TOPICS
from handrail_console.queries import Queries
from handrail_console.source import Source
from sqlalchemy import text
from structlog.testing import capture_logs
from typer.testing import CliRunner

NOWHERE = "127.0.0.1:1"
LETTER = "9c1d2e3f-0000-5000-8000-000000000001"


class Offsets:
    """Stands in for the client where only offsets matter."""

    def __init__(self, beginning: int, end: int) -> None:
        self.beginning, self.end = beginning, end
        self.sought: list[int] = []

    async def beginning_offsets(self, places: list[Place]) -> dict[Place, int]:
        return dict.fromkeys(places, self.beginning)

    async def end_offsets(self, places: list[Place]) -> dict[Place, int]:
        return dict.fromkeys(places, self.end)

    def seek(self, _: Place, offset: int) -> None:
        self.sought.append(offset)

    async def getmany(self, **_: Any) -> dict[Any, Any]:
        raise NodeNotReadyError

    async def stop(self) -> None:
        self.sought.append(-1)


PLACE = Place("runs", 0)


@pytest.mark.parametrize(
    ("stored", "sought", "skipped"),
    [(None, 5, {}), (5, 5, {}), (7, 7, {}), (9, 9, {}), (2, 5, {PLACE: 3}), (0, 5, {PLACE: 5})],
)
async def test_offsets_that_are_gone_are_told_of(stored: int | None, sought: int, skipped: dict[Place, int]) -> None:
    client = Offsets(5, 9)
    source = Source(client, [PLACE])
    await source.seek({} if stored is None else {("runs", 0): stored})
    assert client.sought == [sought]
    assert source.skipped == skipped


async def test_a_position_behind_the_end_is_of_another_kafka() -> None:
    with pytest.raises(
        StateError, match=r"runs\[0\] up to offset 10, but it ends at 9: the ledger is of another Kafka"
    ):
        await Source(Offsets(5, 9), [PLACE]).seek({("runs", 0): 10})


async def test_a_connection_that_breaks_is_closed_and_made_anew(ledger: Ledger) -> None:
    clients = [Offsets(0, 9), Offsets(0, 9)]
    left = list(clients)

    async def connect(_: Any) -> Source:
        if not left:
            raise Enough
        return Source(left.pop(0), [PLACE])

    async def sleep(_: float) -> None:
        pass

    with capture_logs() as logs, pytest.raises(Enough):
        await Follower(ledger, connect, sleep).run()
    assert [client.sought for client in clients] == [[-1], [-1]]
    assert [line["event"] for line in logs] == ["following", "away"] * 2


class StopsBadly:
    """As aiokafka's consumer ends while a fetch of its waits to try again: with a cancellation that nobody asked for."""

    def __init__(self, waits: bool = False) -> None:
        self.waits, self.closed = waits, False
        self._client = self

    async def stop(self) -> None:
        if self.waits:
            await asyncio.Event().wait()
        raise asyncio.CancelledError

    async def close(self) -> None:
        self.closed = True


async def test_a_client_that_ends_with_a_cancellation_of_its_own_does_not_end_console() -> None:
    client = StopsBadly()
    await Source(client, [PLACE]).close()
    assert client.closed


async def test_whoever_cancels_console_while_its_client_ends_is_heard() -> None:
    closing = asyncio.create_task(Source(StopsBadly(waits=True), [PLACE]).close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing


class Enough(Exception):
    """Ends a loop that never ends by itself."""


async def test_while_kafka_is_away_it_is_said_once_and_tried_ever_slower(ledger: Ledger) -> None:
    waits: list[float] = []

    async def connect(_: Any) -> Source:
        raise Unreachable("Kafka does not answer")

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 8:
            raise Enough

    with capture_logs() as logs, pytest.raises(Enough):
        await Follower(ledger, connect, sleep).run()
    assert waits == [0.5, 1, 2, 4, 8, LONGEST_WAIT_S, LONGEST_WAIT_S, LONGEST_WAIT_S]
    assert [line["event"] for line in logs] == ["away"]


async def test_a_source_without_kafka_is_unreachable_and_says_what_to_do() -> None:
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1.*handrail up"):
        await Source.open(NOWHERE, {})
    assert time.monotonic() - started < 10


def test_an_order_without_kafka_fails_fast_and_says_what_to_do(contracts: Contracts) -> None:
    started = time.monotonic()
    order = letter_order("replay", {"letter": LETTER, "generation": 1}, Said("ann"), 0)
    with pytest.raises(Unreachable, match="handrail up"):
        Sender(NOWHERE, contracts)([order])
    assert time.monotonic() - started < 10


def test_without_kafka_the_service_still_ends_with_0_when_asked(
    path: Path, settings_of: Callable[..., Settings]
) -> None:
    with service(settings_of(path, NOWHERE)) as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        assert line["event"] == "away"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_ledger_of_a_newer_build_ends_the_service_with_2(
    path: Path, settings_of: Callable[..., Settings], contracts: Contracts
) -> None:
    with Ledger(path, contracts) as ledger, ledger.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with service(settings_of(path, NOWHERE)) as process:
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 2
        assert "newer Handrail" in json.loads(output)["why"]


def service(settings: Settings) -> Popen[str]:
    env = {
        **os.environ,
        "HANDRAIL_LEDGER": str(settings.ledger),
        "HANDRAIL_CONTRACTS": str(settings.contracts),
        "HANDRAIL_BOOTSTRAP": settings.bootstrap,
    }
    return Popen([sys.executable, "-m", "handrail_console"], stdout=PIPE, env=env, text=True)


@pytest.fixture(scope="module")
def broker(kafka: Any) -> Any:
    """The broker with the shared topics; `runs` in three partitions."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    there = admin.list_topics(timeout=10).topics
    wanted = [NewTopic(name, 3 if name == "runs" else 1, 1) for name in (*TOPICS, TOPIC) if name not in there]
    for future in admin.create_topics(wanted).values() if wanted else ():
        future.result(20)
    return kafka


def publish(bootstrap: str, *, commit: bool, records: list[Any]) -> None:
    """As stages write: in a transaction, lz4, a partition named."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "transactional.id": f"test-{uuid4()}",
            "compression.type": "lz4",
            "message.max.bytes": 1_310_720,
        }
    )
    partitions = len(producer.list_topics("runs", 10).topics["runs"].partitions)
    producer.init_transactions(20)
    producer.begin_transaction()
    for record in records:
        partition = record.partition % partitions if record.topic == "runs" else 0
        producer.produce(record.topic, record.value, record.key, partition=partition)
    if commit:
        producer.commit_transaction(20)
    else:
        producer.flush(20)
        producer.abort_transaction(20)


@pytest.mark.kafka
async def test_it_reads_what_was_committed_once_and_goes_on_where_it_was(
    broker: Any, path: Path, contracts: Contracts, records: Any
) -> None:
    mine = str(uuid4())
    seen: list[int] = []

    async def follow_to(number: int) -> None:
        """Follow from the ledger's positions until so many of ours are there."""
        with Ledger(path, contracts) as ledger:
            async with asyncio.timeout(60), await opened(broker.bootstrap, ledger) as source:
                while len(seen) < number:
                    read = await source.read(7, 0.5)
                    ledger.apply(read.records, read.reached, read.highs)
                    mine_now = [record for record in read.records if record.key == b"restart"]
                    seen.extend(sequence_of(contracts, record, mine) for record in mine_now)

    def write(sequences: range, commit: bool) -> None:
        batch = [
            records.transition(n, "acting", "next", partition=n % 3, run=f"{mine}-{n % 3}", route="restart")
            for n in sequences
        ]
        publish(broker.bootstrap, commit=commit, records=batch)

    write(range(1, 31), commit=False)
    write(range(1, 31), commit=True)
    write(range(31, 32), commit=True)
    await follow_to(31)
    assert sorted(seen) == list(range(1, 32))
    write(range(32, 33), commit=True)
    await follow_to(32)
    assert sorted(seen) == list(range(1, 33))


async def opened(bootstrap: str, ledger: Ledger) -> Source:
    """A source as the service gets one: a fresh broker may not answer for every new partition at once."""
    while True:
        try:
            return await Source.open(bootstrap, ledger.positions())
        except Unreachable as error:
            print(f"tried again: {error}")  # noqa: T201 - pytest shows it when the test fails


def sequence_of(contracts: Contracts, record: Any, run: str) -> int:
    _, body = contracts.decode(record.value)
    assert body["run"].startswith(run)
    return int(body["sequence"])


@pytest.mark.kafka
async def test_a_ledger_of_another_kafka_is_refused(broker: Any, path: Path, contracts: Contracts) -> None:
    with Ledger(path, contracts) as ledger:
        ledger.apply([], {("runs", 0): 1_000_000_000})
        with pytest.raises(StateError, match="the ledger is of another Kafka"):
            await opened(broker.bootstrap, ledger)


@pytest.mark.kafka
def test_the_service_fills_the_ledger_through_an_outage_of_kafka_and_does_not_end(
    broker: Any, path: Path, records: Any, settings_of: Callable[..., Settings]
) -> None:
    mine = str(uuid4())
    events: list[str] = []

    def until(event: str) -> None:
        assert process.stdout is not None
        while events[-1:] != [event]:
            line = process.stdout.readline()
            assert line, f"it has ended: {events}"
            events.append(json.loads(line)["event"])

    with service(settings_of(path, broker.bootstrap)) as process:
        try:
            until("following")
            publish(broker.bootstrap, commit=True, records=[records.transition(1, "prepared", "prepared", run=mine)])
            assert eventually(lambda: state_of(path, mine) == "prepared")
            broker.kill()
            try:
                until("away")
            finally:
                broker.start()
            publish(broker.bootstrap, commit=True, records=[records.transition(2, "done", "x", run=mine)])
            assert eventually(lambda: state_of(path, mine) == "done")
        finally:
            process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    events += [json.loads(line)["event"] for line in output.splitlines()]
    assert events[-2:] == ["following", "ended"]
    assert events.count("away") == 1


@pytest.mark.kafka
def test_a_ledger_that_is_up_with_the_topics_has_no_lag_and_is_made_anew_while_console_runs(
    broker: Any, path: Path, records: Any, settings_of: Callable[..., Settings]
) -> None:
    """The lag counts no marks of transactions, committed or not; of a rebuild console misses nothing and doubles nothing."""
    mine = str(uuid4())
    settings = settings_of(path, broker.bootstrap)

    def publish_one(sequence: int, *, commit: bool = True) -> None:
        one = records.transition(sequence, "acting", "next", run=mine, partition=sequence % 3)
        publish(broker.bootstrap, commit=commit, records=[one])

    def asked(*arguments: str) -> Any:
        result = CliRunner().invoke(ledger_app, [*arguments, "--json"], obj=Room(settings, SystemClock()))
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    with service(settings) as process:
        try:
            for sequence in range(1, 7):
                publish_one(sequence, commit=False)
                publish_one(sequence)
            assert eventually(lambda: sequences_of(path, mine) == list(range(1, 7)))
            assert eventually(lambda: asked("status")["behind"] == 0)
            told = asked("status")
            assert told["asked_kafka"]
            assert asked("rebuild")["rows"] == told["rows"]
            publish_one(7)
            assert eventually(lambda: sequences_of(path, mine) == list(range(1, 8)))
            assert eventually(lambda: asked("status")["behind"] == 0)
        finally:
            process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    events = [json.loads(line)["event"] for line in output.splitlines()]
    assert "rebuilt" in events


@pytest.mark.kafka
def test_monitor_hears_once_a_second_how_much_it_has_taken_and_how_much_is_to_come(
    broker: Any, path: Path, contracts: Contracts, settings_of: Callable[..., Settings]
) -> None:
    began = SystemClock().now()
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": str(uuid4())})
    partitions = consumer.list_topics("stats", 10).topics["stats"].partitions
    consumer.assign([TopicPartition("stats", partition, 0) for partition in partitions])
    said: list[dict[str, Any]] = []

    def heard() -> bool:
        message = consumer.poll(0.1)
        if message is not None and message.key() == b"console":
            contract, body = contracts.decode(message.value())
            if contract.name == "handrail/process-stats.v1" and body["started_at"] >= began:
                said.append(body)
        # What it says is itself a record for it to take.
        return len(said) > 1 and said[-1]["counters"].get("consumed", 0) > said[0]["counters"].get("consumed", 0)

    with service(settings_of(path, broker.bootstrap)) as process:
        try:
            assert eventually(heard)
        finally:
            process.send_signal(signal.SIGTERM)
            consumer.close()
        process.communicate(timeout=20)
    assert {(one["service"], one["stage"], one["phase"], tuple(one["reasons"])) for one in said} == {
        ("console", "console", "follow", ())
    }
    assert len({one["instance"] for one in said}) == 1
    assert all(one["gauges"]["lag"] >= 0 for one in said)


def sequences_of(path: Path, run: str) -> list[int]:
    queries = Queries.open(path)
    try:
        rows = queries.transitions(run)
    finally:
        queries.close()
    assert all(row["repeats"] == 0 for row in rows)
    return [row["sequence"] for row in rows]


def state_of(path: Path, run: str) -> str | None:
    if not path.exists():
        return None
    queries = Queries.open(path)
    try:
        row = queries.run(run)
    finally:
        queries.close()
    return row["state"] if row else None


def eventually(holds: Callable[[], bool], within_s: float = 60) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if holds():
                return True
        except StateError:  # the ledger is just being made
            pass
        time.sleep(0.1)
    return False


@pytest.mark.kafka
def test_an_order_arrives_with_its_headers(broker: Any, contracts: Contracts) -> None:
    letter = str(uuid4())
    Sender(broker.bootstrap, contracts)(
        [letter_order("replay", {"letter": letter, "generation": 2}, Said("ann", "why"), 7)]
    )
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": str(uuid4())})
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    found = None
    for _ in range(100):
        message = consumer.poll(1)
        if message is not None and message.key() == letter.encode():
            found = message
            break
    consumer.close()
    assert found is not None
    contract, body = contracts.decode(found.value())
    assert contract.name == "handrail/operator-command.v2"
    assert (body["command"], body["letter"], body["generation"], body["by"]) == ("replay", letter, 2, "ann")
    headers = dict(found.headers())
    assert headers["ce_type"] == b"handrail/operator-command.v2"
    assert len(headers["ce_id"]) == 36
