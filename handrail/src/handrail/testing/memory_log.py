"""The `Log` of one process on the twin: it does what KafkaLog (handrail.kafka.log) does, and fails when it is told to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from handrail.errors import Aborted, ConfigError, Fenced, Moved, Refused, Unrestored
from handrail.log import Batch, Fault, Outgoing, Record, TopicPartition, Transaction, Written, no_fault
from handrail.testing.group import UNKNOWN, Membership
from handrail.testing.memory_broker import MemoryBroker

Fate = Literal["produce", "aborted", "unknown", "late", "slow"]
"""How the next commit goes wrong.

- `produce`: an output could not be produced; the transaction stays open until `renew`.
- `aborted`: all was written, and the broker refused the commit.
- `unknown`: it committed, but no answer came.
- `late`: no answer came, and the commit is still under way: it arrives before the next producer fences it, or never.
- `slow`: it committed, and a copy of the commit is still under way (librdkafka#5423).
"""

_PATIENCE = 3  # how often a wait looks again: the twin's deadline
_CHUNK = 500


class MemoryLog:
    """A `Log` on a MemoryBroker. A newer log of the same stage and ordinal fences an older one.

    `fail_next` is the fate of the next commit. For looking afterwards: `waited` (seconds of each poll), `transactions`
    (those that committed), `calls`.
    """

    def __init__(
        self, broker: MemoryBroker, stage: str, inbox: str, *, ordinal: int = 0, fault: Fault = no_fault
    ) -> None:
        self._broker, self._stage, self._inbox, self._replay = broker, stage, inbox, f"{stage}.replay"
        self._instance = f"{stage}-{ordinal}"
        self._fault = fault
        self._group = broker.group(stage, inbox)
        self._member: str | None = None
        self._generation = UNKNOWN
        self._share: tuple[int, ...] = ()
        self._positions: dict[TopicPartition, int] = {}
        self._held: set[int] = set()
        self.fail_next: Fate | None = None
        self.waited: list[float] = []
        self.transactions: list[Transaction] = []
        self.calls: list[str] = []
        self._producer = broker.producer(self._instance)

    # --- polling

    def poll(self, limit: int, timeout: float) -> Batch:
        """Nobody waits in memory; `waited` tells how long it would have been."""
        self.waited.append(timeout)
        revoked, assigned = self._follow()
        records = [] if revoked or assigned else self._fetch(limit)
        return Batch(records, assigned, revoked, self._membership())

    def rebalance(self) -> None:
        """Every partition goes away, and comes back by a poll, in a new generation."""
        self._group.rebalance()

    def _follow(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the group says: partitions that are gone, and those that are ours now."""
        revoked: tuple[int, ...] = ()
        if not self._is_member() or self._group.must_rejoin(self._instance):
            revoked = self._let_go()
            if self._is_member():
                self._group.rejoin(self._instance)
            else:
                self._member = self._group.join(self._instance)
        if not self._group.stable or self._generation == self._group.generation:
            return revoked, ()
        self._generation, self._share = self._group.generation, self._group.share(self._instance)
        return revoked, self._share

    def _is_member(self) -> bool:
        return self._member is not None and self._group.knows(self._instance, self._member)

    def _let_go(self) -> tuple[int, ...]:
        if self._share:
            self._fault("in-revoke")
        gone, self._share = self._share, ()
        self._generation = UNKNOWN
        self._positions = {}
        return gone

    def _fetch(self, limit: int) -> list[Record]:
        records: list[Record] = []
        for (topic, partition), position in self._positions.items():
            log = self._broker.log((topic, partition))
            if partition in self._held or len(records) >= limit:
                continue
            if not log.low <= position <= log.end:
                raise ConfigError(f"{self._stage}: its position in {topic}[{partition}] is no longer there")
            some = log.read(position, limit=limit - len(records))
            if some:
                self._positions[topic, partition] = some[-1].offset + 1
            records += some
        return records

    def _membership(self) -> Membership:
        return Membership(self._generation, self._member or "")

    # --- commit

    def commit(self, transaction: Transaction) -> Written:
        fate, self.fail_next = self.fail_next, None
        self._check(transaction.membership)
        self._fault("before-produce")
        self._write(transaction.outputs)
        if fate == "produce":
            raise Aborted(f"{self._stage}: not everything could be produced in time")
        self._broker.meanwhile()
        ends, times = self._write(transaction.changes)
        self._fault("after-produce")
        self._producer.send_offsets(self._group, transaction.membership, transaction.offsets)
        self._fault("after-offsets")
        self._check(transaction.membership)
        self._fault("before-commit")
        self._end(fate)
        self.transactions.append(transaction)
        if fate == "unknown":
            raise Aborted("the commit timed out; it had committed")
        return Written(ends, times)

    def _write(self, records: list[Outgoing]) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        ends: dict[TopicPartition, int] = {}
        times: dict[TopicPartition, int] = {}
        for record in records:
            if record.size() > self._broker.largest:
                raise Refused(f"{record.topic}: {record.size()} bytes; the broker takes {self._broker.largest}")
            ends[record.topic, record.partition] = self._producer.produce(record) + 1
            times[record.topic, record.partition] = self._broker.now
        return ends, times

    def _end(self, fate: Fate | None) -> None:
        """Send the commit, and wait for the answer."""
        if fate == "aborted":
            raise Aborted("the broker aborted the transaction")
        request = self._producer.ask_to_commit()
        self._fault("in-commit")
        if fate == "late":
            raise Aborted("the commit timed out; it is under way")
        if self._broker.transactions.deliver(request) == "fenced":
            raise Fenced(f"{self._stage}: a newer process has our transactional id")
        if fate == "slow":
            self._producer.ask_to_commit()
            self.renew()

    def _check(self, membership: Membership) -> None:
        """A consumer that has not joined has generation -1 and would not be fenced by the broker."""
        if membership.generation < 0 or membership.generation != self._generation:
            raise Moved(f"the group moved on from generation {membership.generation} to {self._generation}")

    def renew(self) -> None:
        self._broker.meanwhile()
        self._producer = self._broker.producer(self._instance)

    # --- restore and positions

    def bounds(self, partitions: list[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        self.calls.append("bounds")
        logs = {where: self._broker.log(where) for where in partitions}
        return {where: (log.low, log.end) for where, log in logs.items()}

    def read(self, spans: dict[TopicPartition, tuple[int, int]]) -> Iterator[list[Record]]:
        """Looks a few times whether open transactions have ended, then gives up as KafkaLog does at its deadline."""
        left = dict(spans)
        for _ in range(_PATIENCE):
            for where, (start, end) in list(left.items()):
                log = self._broker.log(where)
                if start < log.low:
                    raise Aborted(f"{self._stage}: restoring: offset {start} of {where} is no longer there")
                records = log.read(start, end)
                for at in range(0, len(records), _CHUNK):
                    yield records[at : at + _CHUNK]
                if log.stable() >= end:
                    del left[where]
                else:
                    left[where] = (max(start, log.stable()), end)
            if not left:
                return
            yield []
            self._broker.meanwhile()
        raise Unrestored(f"{self._stage}: restore did not reach {left}: an open transaction hides what was committed")

    def committed(self, partitions: list[int]) -> dict[int, int]:
        self.calls.append("committed")
        for _ in range(_PATIENCE):
            if not any(self._broker.transactions.pending(self._stage, partition) for partition in partitions):
                break
            self._broker.meanwhile()
        else:
            raise Aborted(f"{self._stage}: asking for committed positions: a transaction is still open")
        for partition in partitions:
            if (self._stage, partition) not in self._broker.offsets:
                raise ConfigError(f"{self._stage} has no position in {partition}; run `handrail topics provision`")
        return {partition: self._broker.offsets[self._stage, partition] for partition in partitions}

    def resume(self, positions: dict[int, tuple[int, int]]) -> None:
        self._held.clear()
        self._positions = {}
        for partition, (inbox, replay) in positions.items():
            log = self._broker.log((self._replay, partition))
            self._positions[self._inbox, partition] = inbox
            self._positions[self._replay, partition] = min(max(replay, log.low), log.end)

    def hold(self, partition: int) -> None:
        self._held.add(partition)

    def joined(self) -> bool:
        return self._generation != UNKNOWN

    def lag(self, places: Mapping[int, int]) -> dict[int, int]:
        return {
            partition: self._broker.log((topic, partition)).end - places.get(partition, position)
            for (topic, partition), position in self._positions.items()
            if topic == self._inbox
        }

    def close(self) -> None:
        """A static member keeps its place in the group."""
