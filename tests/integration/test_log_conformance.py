"""What a `Log` promises (handrail.log), asked of both: the one in memory and the one on Kafka."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from handrail.errors import Aborted, ConfigError, Fenced
from handrail.kafka.log import KafkaLog
from handrail.log import Batch, Log, Outgoing, Record, Transaction
from handrail.testing.broker import Broker
from handrail.testing.memory import MemoryBroker, MemoryLog

from handrail import changelog


def sibling(name: str) -> Any:
    """Another file of this folder: test folders are no packages."""
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert found is not None
        assert found.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[name])
    return sys.modules[name]


provision = sibling("crash_world").provision
PARTITIONS = 2
WITHIN_S = 30.0


@dataclass
class World:
    """A broker with the topics of one stage, and logs of that stage."""

    stage: str
    open: Callable[..., Log]
    publish: Callable[[str, int, bytes], None]
    bootstrap: str = ""
    logs: list[Log] = field(default_factory=list)

    @property
    def inbox(self) -> str:
        return f"{self.stage}.in"

    @property
    def out(self) -> str:
        return f"{self.stage}.out"

    def log(self, **given: Any) -> Log:
        """A new log of the stage; the newest has its name."""
        log = self.open(self.stage, self.inbox, **given)
        self.logs.append(log)
        return log

    def private(self, kind: str) -> str:
        return f"{self.stage}.{kind}"


def topics(stage: str) -> list[str]:
    return [f"{stage}.in", f"{stage}.out", *changelog.topics(stage), f"{stage}.replay"]


def in_memory(stage: str) -> World:
    broker = MemoryBroker(partitions=dict.fromkeys(topics(stage), PARTITIONS))
    for partition in range(PARTITIONS):
        broker.provision(stage, partition)

    def publish(topic: str, partition: int, value: bytes) -> None:
        broker.append(Outgoing(topic, partition, b"k", value))

    return World(
        stage,
        lambda stage, inbox, **_: MemoryLog(broker, stage, inbox),
        publish,
    )


def on_kafka(bootstrap: str, stage: str) -> World:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for future in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in topics(stage)]).values():
        future.result(WITHIN_S)
    plain = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})

    def publish(topic: str, partition: int, value: bytes) -> None:
        plain.produce(topic, value, b"k", partition)
        assert plain.flush(WITHIN_S) == 0

    provision(bootstrap, stage, f"{stage}.in", PARTITIONS)
    return World(stage, lambda stage, inbox, **given: KafkaLog(bootstrap, stage, 0, inbox, **given), publish, bootstrap)


_count = iter(range(10_000))


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    stage = f"conformance{next(_count)}-{time.time_ns()}"
    made = in_memory(stage) if request.param == "memory" else on_kafka(kafka_of(request), stage)
    yield made
    for log in made.logs:
        log.close()


@pytest.fixture
def kafka_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """For what only a real broker has: transactions of others that stay open."""
    made = on_kafka(kafka_of(request), f"conformance{next(_count)}-{time.time_ns()}")
    yield made
    for log in made.logs:
        log.close()


def kafka_of(request: pytest.FixtureRequest) -> str:
    broker: Broker = request.getfixturevalue("kafka")
    return broker.bootstrap


def join(log: Log, positions: dict[int, tuple[int, int]] | None = None) -> Batch:
    """Poll until partitions are assigned, and go on from what was committed."""
    batch = poll_until(log, lambda batch: bool(batch.assigned))
    assert batch.assigned == tuple(range(PARTITIONS))
    assert batch.records == [], "nothing is delivered before `resume`"
    committed = log.committed(list(batch.assigned))
    log.resume(positions or {partition: (offset, 0) for partition, offset in committed.items()})
    return batch


def poll_until(log: Log, enough: Callable[[Batch], bool], limit: int = 100) -> Batch:
    """Poll; records of all polls together, and the newest membership."""
    together = Batch([])
    deadline = time.monotonic() + WITHIN_S
    while True:
        batch = log.poll(limit, 0.1)
        together.records += batch.records
        together.assigned += batch.assigned
        together.membership = batch.membership
        if enough(together):
            return together
        assert time.monotonic() < deadline, f"not within {WITHIN_S} s: {together}"


def take(log: Log, count: int, limit: int = 100) -> Batch:
    return poll_until(log, lambda batch: len(batch.records) >= count, limit)


def transaction(world: World, membership: Any, offsets: dict[int, int], value: bytes = b"done") -> Transaction:
    return Transaction(
        [Outgoing(world.out, 0, b"k", value)],
        [Outgoing(world.private("state"), 0, b"k", value), Outgoing(world.private("marks"), 0, None, bytes(16))],
        offsets,
        membership,
    )


def read(log: Log, topic: str) -> list[Record]:
    """All committed records of a topic, to the high watermark."""
    bounds = log.bounds([(topic, partition) for partition in range(PARTITIONS)])
    return [record for some in log.read(bounds) for record in some]


def values(records: list[Record]) -> list[bytes | None]:
    return [record.value for record in records]


# --- what both promise


def test_records_come_in_order_and_no_more_than_asked_for(world: World) -> None:
    for n in range(5):
        world.publish(world.inbox, 0, b"%d" % n)
    log = world.log()
    join(log)
    first = take(log, 1, limit=2)
    assert 1 <= len(first.records) <= 2
    rest = take(log, 5 - len(first.records), limit=2)
    assert values(first.records + rest.records) == [b"0", b"1", b"2", b"3", b"4"]
    assert [record.offset for record in first.records + rest.records] == [0, 1, 2, 3, 4]


def test_a_commit_writes_outputs_changelogs_and_positions_and_tells_where(world: World) -> None:
    world.publish(world.inbox, 0, b"x")
    log = world.log()
    join(log)
    batch = take(log, 1)
    written = log.commit(transaction(world, batch.membership, {0: 1}))
    assert log.committed([0, 1]) == {0: 1, 1: 0}
    assert values(read(log, world.out)) == [b"done"]
    assert written.ends[world.private("state"), 0] == 1
    assert written.times[world.private("marks"), 0] > 0
    assert {where[0] for where in written.ends} == {world.private("state"), world.private("marks")}


def test_after_a_restart_it_goes_on_behind_what_was_committed(world: World) -> None:
    for n in range(3):
        world.publish(world.inbox, 0, b"%d" % n)
    log = world.log()
    join(log)
    batch = take(log, 3)
    log.commit(transaction(world, batch.membership, {0: 2}))
    log.close()
    world.logs.clear()
    again = world.log()
    join(again)
    assert values(take(again, 1).records) == [b"2"]


def test_resume_seeks_back_to_what_was_not_committed(world: World) -> None:
    world.publish(world.inbox, 0, b"x")
    log = world.log()
    join(log)
    take(log, 1)
    log.resume({0: (0, 0), 1: (0, 0)})
    assert values(take(log, 1).records) == [b"x"]


def test_a_commit_of_an_older_generation_is_refused_and_leaves_nothing(world: World) -> None:
    world.publish(world.inbox, 0, b"x")
    log = world.log()
    join(log)
    batch = take(log, 1)
    with pytest.raises(Aborted):
        log.commit(transaction(world, older(batch.membership), {0: 1}))
    log.renew()
    assert values(read(log, world.out)) == []
    assert values(read(log, world.private("state"))) == []
    assert log.committed([0]) == {0: 0}
    log.resume({0: (0, 0), 1: (0, 0)})
    again = take(log, 1)
    log.commit(transaction(world, again.membership, {0: 1}, b"second"))
    assert values(read(log, world.out)) == [b"second"]


def older(membership: Any) -> Any:
    """The same membership, one generation before."""
    if isinstance(membership, int):
        return membership - 1
    head = len(b"CGMDv2:")
    generation = int.from_bytes(membership[head : head + 4], "little", signed=True) - 1
    return membership[:head] + generation.to_bytes(4, "little", signed=True) + membership[head + 4 :]


def test_a_newer_log_of_the_same_name_fences_the_older(world: World) -> None:
    world.publish(world.inbox, 0, b"x")
    old = world.log()
    join(old)
    batch = take(old, 1)
    new = world.log()
    with pytest.raises(Fenced):
        old.commit(transaction(world, batch.membership, {0: 1}, b"zombie"))
    joined = poll_until(new, lambda each: bool(each.assigned))
    with pytest.raises(Fenced):
        poll_until(old, lambda each: False)
    new.resume(dict.fromkeys(joined.assigned, (0, 0)))
    taken = take(new, 1)
    new.commit(transaction(world, taken.membership, {0: 1}, b"new"))
    assert values(read(new, world.out)) == [b"new"]


def test_a_restore_reads_to_the_very_end_over_the_end_of_a_transaction(world: World) -> None:
    """The last record of a transactional log is its control record, which no reader sees."""
    log = world.log()
    batch = join(log)
    for n in range(3):
        log.commit(transaction(world, batch.membership, {0: 0}, b"%d" % n))
    assert values(read(log, world.private("state"))) == [b"0", b"1", b"2"]


def test_a_restore_reads_its_span_and_no_more(world: World) -> None:
    topic = world.private("state")
    for n in range(6):
        world.publish(topic, 0, b"%d" % n)
    log = world.log()
    assert values([record for some in log.read({(topic, 0): (2, 4)}) for record in some]) == [b"2", b"3"]
    assert list(log.read({})) == []


def test_bounds_are_those_of_each_partition(world: World) -> None:
    topic = world.private("state")
    world.publish(topic, 1, b"x")
    log = world.log()
    assert log.bounds([(topic, 0), (topic, 1)]) == {(topic, 0): (0, 0), (topic, 1): (0, 1)}


def test_a_partition_on_hold_delivers_nothing_until_resume(world: World) -> None:
    log = world.log()
    join(log)
    log.hold(0)
    world.publish(world.inbox, 0, b"held")
    world.publish(world.private("replay"), 0, b"held, too")
    world.publish(world.inbox, 1, b"flows")
    assert values(take(log, 1).records) == [b"flows"]
    world.publish(world.inbox, 1, b"flows on")
    assert values(take(log, 1).records) == [b"flows on"]
    log.resume({0: (0, 0), 1: (2, 0)})
    assert sorted(values(take(log, 2).records)) == [b"held", b"held, too"]


def test_without_room_nothing_is_taken_and_nothing_lost(world: World) -> None:
    world.publish(world.inbox, 0, b"x")
    log = world.log()
    join(log)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        assert log.poll(0, 0.05).records == []
        if isinstance(log, MemoryLog):
            break
    log.hold(1)
    assert values(take(log, 1).records) == [b"x"]
    assert log.poll(0, 0.05).records == []
    world.publish(world.inbox, 0, b"y")
    assert values(take(log, 1).records) == [b"y"]


def test_the_replay_topic_is_read_from_the_position_given(world: World) -> None:
    for n in range(3):
        world.publish(world.private("replay"), 1, b"%d" % n)
    log = world.log()
    join(log, {0: (0, 0), 1: (0, 1)})
    taken = take(log, 2)
    assert values(taken.records) == [b"1", b"2"]
    assert {(record.topic, record.partition) for record in taken.records} == {(world.private("replay"), 1)}


def test_no_position_is_a_config_error_that_says_what_to_do(world: World) -> None:
    log = world.open(f"{world.stage}-unknown", world.inbox)
    world.logs.append(log)
    poll_until(log, lambda batch: bool(batch.assigned))
    with pytest.raises(ConfigError, match="handrail topics provision"):
        log.committed([0])


def test_lag_is_what_is_left(world: World) -> None:
    for n in range(4):
        world.publish(world.inbox, 0, b"%d" % n)
    log = world.log()
    join(log)
    take(log, 4)
    poll_until(log, lambda _: log.lag().get(0) == 0)
    assert log.lag() == {0: 0, 1: 0} or log.lag() == {0: 0}


# --- what only a real broker can do to us


@pytest.fixture
def stranger(request: pytest.FixtureRequest) -> Producer:
    """Another process with a transaction of its own."""
    name = f"stranger-{time.time_ns()}"
    producer = Producer(
        {"bootstrap.servers": kafka_of(request), "transactional.id": name, "transaction.timeout.ms": 60_000}
    )
    producer.init_transactions(WITHIN_S)
    producer.begin_transaction()
    return producer


@pytest.mark.kafka
def test_an_open_transaction_of_another_hides_committed_records_so_a_restore_gives_up_at_its_deadline(
    kafka_world: World, stranger: Producer
) -> None:
    topic = kafka_world.private("state")
    stranger.produce(topic, b"open", b"k", 0)
    assert stranger.flush(WITHIN_S) == 0
    kafka_world.publish(topic, 0, b"hidden")
    log = kafka_world.log(restore_deadline_s=1.0)
    with pytest.raises(Aborted, match="restore did not reach"):
        read(log, topic)
    stranger.abort_transaction(WITHIN_S)
    assert values(read(log, topic)) == [b"hidden"]


@pytest.mark.kafka
@pytest.mark.parametrize("end", ["commit", "abort"])
def test_a_restore_waits_for_an_open_transaction_to_end(kafka_world: World, stranger: Producer, end: str) -> None:
    topic = kafka_world.private("state")
    stranger.produce(topic, b"open", b"k", 0)
    assert stranger.flush(WITHIN_S) == 0
    kafka_world.publish(topic, 0, b"hidden")
    log = kafka_world.log()
    found: list[bytes | None] = []
    reader = threading.Thread(target=lambda: found.extend(values(read(log, topic))))
    chunks = log.read(log.bounds([(topic, 0)]))
    assert next(chunks) == [], "nothing can be seen behind it yet"
    chunks.close()  # type: ignore[attr-defined]
    reader.start()
    (stranger.commit_transaction if end == "commit" else stranger.abort_transaction)(WITHIN_S)
    reader.join(WITHIN_S)
    assert found == ([b"open", b"hidden"] if end == "commit" else [b"hidden"])


@pytest.mark.kafka
@pytest.mark.parametrize("end", ["commit", "abort"])
def test_positions_wait_for_a_pending_transaction_of_a_former_owner(
    kafka_world: World, stranger: Producer, end: str
) -> None:
    """A position that is read while the former owner commits must not be the one from before, nor called missing."""
    owner = kafka_world.log()
    batch = join(owner)
    stranger.send_offsets_to_transaction([TopicPartition(kafka_world.inbox, 0, 7)], batch.membership, WITHIN_S)
    found: list[dict[int, int] | Exception] = []

    def ask() -> None:
        try:
            found.append(owner.committed([0, 1]))
        except Exception as error:
            found.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(1.0)
    early = list(found)
    (stranger.commit_transaction if end == "commit" else stranger.abort_transaction)(WITHIN_S)
    asking.join(WITHIN_S)
    assert early == [], "it does not guess"
    assert found == [{0: 7 if end == "commit" else 0, 1: 0}]


@pytest.mark.kafka
def test_positions_that_stay_undecided_are_an_abort_and_no_config_error(
    kafka_world: World, stranger: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handrail.kafka.log._INIT_S", 2.0)
    owner = kafka_world.log()
    batch = join(owner)
    stranger.send_offsets_to_transaction([TopicPartition(kafka_world.inbox, 0, 7)], batch.membership, WITHIN_S)
    with pytest.raises(Aborted):
        owner.committed([0, 1])
    stranger.abort_transaction(WITHIN_S)
    assert owner.committed([0, 1]) == {0: 0, 1: 0}


@pytest.mark.kafka
def test_an_output_that_the_broker_refuses_aborts_the_whole_batch(kafka_world: World) -> None:
    log = kafka_world.log()
    batch = join(log)
    wanted = transaction(kafka_world, batch.membership, {0: 0})
    wanted.outputs.append(Outgoing(kafka_world.out, 0, b"k", bytes(2_000_000)))
    with pytest.raises(Aborted):
        log.commit(wanted)
    log.renew()
    assert values(read(log, kafka_world.out)) == []
    assert values(read(log, kafka_world.private("state"))) == []
    log.commit(transaction(kafka_world, batch.membership, {0: 0}, b"next"))
    assert values(read(log, kafka_world.out)) == [b"next"]


class Trusting(KafkaLog):
    """Does not look at its own membership, so that the broker has to."""

    def _check_membership(self, membership: bytes) -> None:
        """Nothing."""


@pytest.mark.kafka
def test_the_broker_itself_refuses_an_older_generation(kafka_world: World) -> None:
    log = Trusting(kafka_world.bootstrap, kafka_world.stage, 0, kafka_world.inbox)
    kafka_world.logs.append(log)
    batch = join(log)
    with pytest.raises(Aborted):
        log.commit(transaction(kafka_world, older(batch.membership), {0: 5}))
    log.renew()
    assert log.committed([0]) == {0: 0}
    assert values(read(log, kafka_world.out)) == []


@pytest.mark.kafka
def test_partitions_that_move_take_no_records_of_the_old_assignment_with_them(kafka_world: World) -> None:
    for partition in range(PARTITIONS):
        for n in range(200):
            kafka_world.publish(kafka_world.inbox, partition, b"%d" % n)
    one = kafka_world.log()
    join(one)
    take(one, 1, limit=10)
    other = KafkaLog(kafka_world.bootstrap, kafka_world.stage, 1, kafka_world.inbox)
    kafka_world.logs.append(other)
    deadline = time.monotonic() + WITHIN_S
    owned: dict[int, int] = {}
    while sorted(owned) != [0, 1]:
        assert time.monotonic() < deadline, "the partitions are not shared out"
        for number, log in enumerate((one, other)):
            batch = log.poll(10, 0.1)
            if batch.revoked or batch.assigned:
                assert batch.records == []
            if len(batch.assigned) == 1:
                owned[batch.assigned[0]] = number
    assert set(owned.values()) == {0, 1}


@pytest.mark.kafka
def test_a_position_that_has_expired_is_not_jumped_over(kafka_world: World) -> None:
    log = kafka_world.log()
    poll_until(log, lambda each: bool(each.assigned))
    log.resume({0: (1_000, 0), 1: (0, 0)})
    with pytest.raises(ConfigError, match="no longer there"):
        poll_until(log, lambda each: False)


@pytest.mark.kafka
def test_many_outputs_wait_for_room_in_the_local_queue(kafka_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from handrail.kafka import settings

    small = settings.stage_producer
    monkeypatch.setattr(settings, "stage_producer", lambda *given: small(*given) | {"queue.buffering.max.messages": 50})
    log = kafka_world.log()
    batch = join(log)
    many = [Outgoing(kafka_world.out, n % 2, b"k", b"%d" % n) for n in range(2_000)]
    log.commit(Transaction(many, [], {0: 0}, batch.membership))
    assert sorted(int(value or b"") for value in values(read(log, kafka_world.out))) == list(range(2_000))
