"""A broker in memory that does what matters of Kafka to a stage, at once and only when it is told to.

It models transactions (open, committed, aborted; their markers take offsets), the last stable offset, producer epochs that
fence, commits that arrive late, transaction time-outs, consumer groups with generations and static members, positions that
wait for an open transaction, broker time that may jump, compaction and retention. It does not model replication, several
brokers, sizes, quotas or access control. The conformance suite holds it to the real one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from handrail.errors import ConfigError
from handrail.identity import partition_for
from handrail.log import Outgoing, Record, TopicPartition
from handrail.message import Headers
from handrail.testing.group import Group
from handrail.testing.partition_log import MemoryTransaction, PartitionLog
from handrail.testing.transactions import MemoryProducer, Transactions


def nothing() -> None:
    """Nothing happens meanwhile."""


@dataclass
class MemoryBroker:
    """Topics, committed positions by (group, partition), groups and transactions.

    `now` is the broker's clock in ms since the epoch: set it to let it jump; `advance` lets time pass. `meanwhile` is called
    whenever a client waits for something: there a test lets others go on. A record of more than `largest` bytes is refused.
    """

    partitions: dict[str, int] = field(default_factory=dict)
    now: int = 1_700_000_000_000
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    meanwhile: Callable[[], None] = nothing
    largest: int = 1_441_792

    def __post_init__(self) -> None:
        self._logs: dict[TopicPartition, PartitionLog] = {}
        self._groups: dict[str, Group] = {}
        self.transactions = Transactions(self.log, self.offsets)

    # --- topics

    def create(self, topic: str, partitions: int = 1) -> None:
        """Make a topic."""
        self.partitions[topic] = partitions

    def partitions_of(self, topic: str) -> int:
        """A topic's partition count. Raises ConfigError for a topic that nobody made."""
        if topic not in self.partitions:
            raise ConfigError(f"there is no topic {topic}")
        return self.partitions[topic]

    def log(self, where: TopicPartition) -> PartitionLog:
        """One partition, with all that is in it. Raises ConfigError when there is none."""
        topic, partition = where
        if not 0 <= partition < self.partitions_of(topic):
            raise ConfigError(f"{topic} has no partition {partition}")
        return self._logs.setdefault(where, PartitionLog())

    def append(self, record: Outgoing, transaction: MemoryTransaction | None = None) -> int:
        """Write one record; its offset."""
        return self.log((record.topic, record.partition)).append(record, self.now, transaction)

    def publish(self, topic: str, key: str, value: bytes | None, headers: Headers = ()) -> Record:
        """What an outside publisher does."""
        partition = partition_for(key, self.partitions_of(topic))
        offset = self.append(Outgoing(topic, partition, key.encode(), value, headers))
        return Record(topic, partition, offset, self.now, key.encode(), value, headers)

    def records(self, topic: str) -> list[Record]:
        """What a read_committed reader sees of a topic, partition by partition."""
        return [record for p in range(self.partitions_of(topic)) for record in self.log((topic, p)).read(0)]

    # --- clients

    def provision(self, stage: str, partition: int) -> None:
        """A starting position, unless there is one: what `handrail topics provision` commits."""
        self.offsets.setdefault((stage, partition), 0)

    def group(self, name: str, inbox: str) -> Group:
        """The consumer group of a stage and its inbox."""
        return self._groups.setdefault(name, Group(name, lambda: self.partitions_of(inbox)))

    def producer(self, name: str) -> MemoryProducer:
        """A transactional producer; an older one of the same name is fenced and what it has open is aborted."""
        return MemoryProducer(self.transactions, self.append, name)

    # --- time

    def advance(self, ms: int) -> None:
        """Let time pass: transactions that are open for too long are aborted."""
        self.now += ms
        self.transactions.advance(ms)

    def compact(self, topic: str, *, tombstones: bool = False) -> None:
        """Compaction runs; with `tombstones` those are old enough to go, too."""
        for partition in range(self.partitions_of(topic)):
            self.log((topic, partition)).compact(tombstones=tombstones)

    def expire(self, topic: str, older_than_ms: int) -> None:
        """Retention runs: what stands before the first record that is young enough, by broker time, goes."""
        for partition in range(self.partitions_of(topic)):
            log = self.log((topic, partition))
            young = (
                entry.offset
                for entry in log.entries
                if entry.record is not None and entry.record.timestamp >= self.now - older_than_ms
            )
            log.drop_before(next(young, log.end))
