"""A broker, the one in memory or the real one, with the topics of one stage; and logs of that stage on it."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from handrail.kafka.log import KafkaLog
from handrail.log import Batch, Log, Outgoing, Record, Transaction
from handrail.testing.group import Membership
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
LARGEST = 1_048_588  # of a topic for which nothing else was said


class Stranger(Protocol):
    """Another process with a transaction of its own, which is open until it says so."""

    def produce(self, topic: str, value: bytes) -> None:
        """Into partition 0, there when this returns."""

    def send_offset(self, membership: Any, offset: int) -> None:
        """The stage's position in partition 0 of its inbox."""

    def commit(self) -> None: ...

    def abort(self) -> None: ...


@dataclass
class World:
    """A broker with the topics of one stage, and logs of that stage. `stranger` takes a transactional id."""

    stage: str
    open: Callable[..., Log]
    publish: Callable[[str, int, bytes], None]
    stranger: Callable[[str], Stranger]
    bootstrap: str = ""
    logs: list[Log] = field(default_factory=list)

    @property
    def inbox(self) -> str:
        return f"{self.stage}.in"

    @property
    def out(self) -> str:
        return f"{self.stage}.out"

    def log(self, ordinal: int = 0, **given: Any) -> Log:
        """A new log of the stage; the newest of an ordinal has its name."""
        log = self.open(self.stage, self.inbox, ordinal, **given)
        self.logs.append(log)
        return log

    def private(self, kind: str) -> str:
        return f"{self.stage}.{kind}"

    def close(self) -> None:
        for log in self.logs:
            log.close()


def topics(stage: str) -> list[str]:
    return [f"{stage}.in", f"{stage}.out", *changelog.topics(stage), f"{stage}.replay"]


# --- in memory


class MemoryStranger:
    def __init__(self, broker: MemoryBroker, stage: str, name: str) -> None:
        self._group = broker.group(stage, f"{stage}.in")
        self._producer = broker.producer(name)
        self.commit, self.abort = self._producer.commit, self._producer.abort

    def produce(self, topic: str, value: bytes) -> None:
        self._producer.produce(Outgoing(topic, 0, b"k", value))

    def send_offset(self, membership: Any, offset: int) -> None:
        self._producer.send_offsets(self._group, membership, {0: offset})


def in_memory(stage: str) -> World:
    broker = MemoryBroker(partitions=dict.fromkeys(topics(stage), PARTITIONS), largest=LARGEST)
    for partition in range(PARTITIONS):
        broker.provision(stage, partition)

    def publish(topic: str, partition: int, value: bytes) -> None:
        broker.append(Outgoing(topic, partition, b"k", value))

    return World(
        stage,
        lambda stage, inbox, ordinal, **_: MemoryLog(broker, stage, inbox, ordinal=ordinal),
        publish,
        lambda name: MemoryStranger(broker, stage, name),
    )


# --- on Kafka


class KafkaStranger:
    def __init__(self, bootstrap: str, stage: str, name: str) -> None:
        self._inbox = f"{stage}.in"
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "transactional.id": name, "transaction.timeout.ms": 60_000}
        )
        self._producer.init_transactions(WITHIN_S)
        self._producer.begin_transaction()

    def produce(self, topic: str, value: bytes) -> None:
        self._producer.produce(topic, value, b"k", 0)
        assert self._producer.flush(WITHIN_S) == 0

    def send_offset(self, membership: Any, offset: int) -> None:
        self._producer.send_offsets_to_transaction([TopicPartition(self._inbox, 0, offset)], membership, WITHIN_S)

    def commit(self) -> None:
        self._producer.commit_transaction(WITHIN_S)

    def abort(self) -> None:
        self._producer.abort_transaction(WITHIN_S)


def on_kafka(bootstrap: str, stage: str) -> World:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for future in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in topics(stage)]).values():
        future.result(WITHIN_S)
    plain = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})

    def publish(topic: str, partition: int, value: bytes) -> None:
        plain.produce(topic, value, b"k", partition)
        assert plain.flush(WITHIN_S) == 0

    provision(bootstrap, stage, f"{stage}.in", PARTITIONS)
    return World(
        stage,
        lambda stage, inbox, ordinal, **given: KafkaLog(bootstrap, stage, ordinal, inbox, **given),
        publish,
        lambda name: KafkaStranger(bootstrap, stage, name),
        bootstrap,
    )


# --- driving a log


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


def older(membership: Any) -> Any:
    """The same membership, one generation before."""
    if isinstance(membership, Membership):
        return replace(membership, generation=membership.generation - 1)
    head = len(b"CGMDv2:")
    generation = int.from_bytes(membership[head : head + 4], "little", signed=True) - 1
    return membership[:head] + generation.to_bytes(4, "little", signed=True) + membership[head + 4 :]
