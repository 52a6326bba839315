"""A broker in memory with transactions, offsets by group and generations, and the `Log` on it: the twin of real Kafka."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from handrail.errors import Aborted, ConfigError, Fenced
from handrail.identity import partition_for
from handrail.log import Batch, Fault, Outgoing, Record, TopicPartition, Transaction, Written, no_fault
from handrail.message import Headers


@dataclass
class MemoryBroker:
    """Topics, committed positions, group generations and transactional ids."""

    partitions: dict[str, int] = field(default_factory=dict)
    now: int = 1_700_000_000_000
    logs: dict[TopicPartition, list[Record]] = field(default_factory=lambda: defaultdict(list))
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    epochs: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def create(self, topic: str, partitions: int = 1) -> None:
        """Make a topic."""
        self.partitions[topic] = partitions

    def partitions_of(self, topic: str) -> int:
        """A topic's partition count. Raises ConfigError for a topic that nobody made."""
        if topic not in self.partitions:
            raise ConfigError(f"there is no topic {topic}")
        return self.partitions[topic]

    def provision(self, stage: str, partition: int) -> None:
        """A starting position, unless there is one: what `handrail topics provision` commits."""
        self.offsets.setdefault((stage, partition), 0)

    def append(self, record: Outgoing) -> int:
        """Write one record; its offset."""
        if not 0 <= record.partition < self.partitions_of(record.topic):
            raise ConfigError(f"{record.topic} has no partition {record.partition}")
        log = self.logs[record.topic, record.partition]
        log.append(
            Record(record.topic, record.partition, len(log), self.now, record.key, record.value, tuple(record.headers))
        )
        return len(log) - 1

    def publish(self, topic: str, key: str, value: bytes | None, headers: Headers = ()) -> Record:
        """What an outside publisher does."""
        partition = partition_for(key, self.partitions_of(topic))
        offset = self.append(Outgoing(topic, partition, key.encode(), value, headers))
        return self.logs[topic, partition][offset]

    def records(self, topic: str) -> list[Record]:
        """All records of a topic, partition by partition."""
        return [record for p in range(self.partitions_of(topic)) for record in self.logs[topic, p]]


class MemoryLog:
    """A `Log` on a MemoryBroker. A newer log of the same stage fences an older one."""

    def __init__(self, broker: MemoryBroker, stage: str, inbox: str, *, fault: Fault = no_fault) -> None:
        self._broker, self._stage, self._inbox, self._replay = broker, stage, inbox, f"{stage}.replay"
        self._fault = fault
        self._positions: dict[TopicPartition, int] = {}
        self._held: set[int] = set()
        self._joined = False
        self._epoch = 0
        self._revoked: tuple[int, ...] = ()
        self.fail_next: str | None = None
        self.waited: list[float] = []
        self.transactions: list[Transaction] = []
        self.calls: list[str] = []
        broker.generations[stage] += 1
        self._generation = broker.generations[stage]
        self.renew()

    def rebalance(self) -> None:
        """Every partition goes away and comes back with the next poll, in a new generation."""
        self._broker.generations[self._stage] += 1
        self._generation = self._broker.generations[self._stage]
        self._revoked, self._joined = tuple(range(self._broker.partitions_of(self._inbox))), False
        self._positions = {}

    def poll(self, limit: int, timeout: float) -> Batch:
        """Nobody waits in memory; `waited` tells how long it would have been."""
        self._check_fenced()
        self.waited.append(timeout)
        assigned = () if self._joined else tuple(range(self._broker.partitions_of(self._inbox)))
        self._joined = True
        records: list[Record] = []
        for (topic, partition), position in list(self._positions.items()):
            if partition in self._held:
                continue
            some = self._broker.logs[topic, partition][position : position + limit - len(records)]
            records += some
            self._positions[topic, partition] = position + len(some)
        revoked, self._revoked = self._revoked, ()
        return Batch(records, assigned, revoked, self._generation)

    def commit(self, transaction: Transaction) -> Written:
        self._check_fenced()
        failure, self.fail_next = self.fail_next, None
        if failure == "aborted":
            raise Aborted("the broker aborted the transaction")
        if transaction.membership != self._broker.generations[self._stage]:
            raise Aborted("the group moved on")
        self._fault("before-produce")
        self._fault("before-commit")
        for record in transaction.outputs:
            self._broker.append(record)
        ends: dict[TopicPartition, int] = {}
        for record in transaction.changes:
            ends[record.topic, record.partition] = self._broker.append(record) + 1
        for partition, offset in transaction.offsets.items():
            self._broker.offsets[self._stage, partition] = offset
        self.transactions.append(transaction)
        if failure == "unknown":
            raise Aborted("the commit timed out; it had committed")
        return Written(ends, dict.fromkeys(ends, self._broker.now))

    def bounds(self, partitions: list[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        self.calls.append("bounds")
        return {where: (0, len(self._broker.logs[where])) for where in partitions}

    def read(self, spans: dict[TopicPartition, tuple[int, int]]) -> Iterator[list[Record]]:
        for where, (start, end) in spans.items():
            yield self._broker.logs[where][start:end]

    def committed(self, partitions: list[int]) -> dict[int, int]:
        self.calls.append("committed")
        for partition in partitions:
            if (self._stage, partition) not in self._broker.offsets:
                raise ConfigError(f"{self._stage} has no position in {partition}; run `handrail topics provision`")
        return {partition: self._broker.offsets[self._stage, partition] for partition in partitions}

    def resume(self, positions: dict[int, tuple[int, int]]) -> None:
        self._held.clear()
        self._positions = {}
        for partition, (inbox, replay) in positions.items():
            self._positions[self._inbox, partition] = inbox
            self._positions[self._replay, partition] = replay

    def hold(self, partition: int) -> None:
        self._held.add(partition)

    def renew(self) -> None:
        self._broker.epochs[self._stage] += 1
        self._epoch = self._broker.epochs[self._stage]

    def lag(self) -> dict[int, int]:
        return {
            partition: len(self._broker.logs[topic, partition]) - position
            for (topic, partition), position in self._positions.items()
            if topic == self._inbox
        }

    def close(self) -> None:
        """Nothing to let go of."""

    def _check_fenced(self) -> None:
        if self._epoch != self._broker.epochs[self._stage]:
            raise Fenced(f"{self._stage}: a newer process has our transactional id")
