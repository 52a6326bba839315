"""The port between a stage and its log: poll, commit a batch, restore.

A `Log` serves one stage: its inbox (by subscription), its replay topic (by assignment), its private changelogs, and one
transaction a batch. `handrail.kafka.log.KafkaLog` is the real one, `handrail.testing.memory.MemoryLog` its twin; the same
conformance suite passes on both (tests/integration/test_log_conformance.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from handrail.message import Headers

TopicPartition = tuple[str, int]

Fault = Callable[[str], None]
"""Called at each named point of the loop. Tests kill the process there; in production it does nothing."""

FAULT_POINTS = (
    "during-restore",
    "after-consume",
    "after-decode",
    "after-handle",
    "before-produce",
    "after-produce",
    "after-offsets",
    "before-commit",
    "in-commit",
    "after-commit",
    "after-apply",
    "after-intent",
    "after-call",
    "in-revoke",
)
"""In the order of the loop. `after-intent` and `after-call` are hit only where a worker makes calls."""


def no_fault(_point: str) -> None:
    """The fault hook of production."""


@dataclass(slots=True)
class Record:
    """One committed record as the log gives it. `timestamp` in ms since the epoch.

    Not frozen, as are Outgoing, Arrival and Meta: one of each is made for every record, and frozen ones take three times
    as long to make. Nobody changes them.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    def size(self) -> int:
        """Bytes of key, value and headers. A compressed batch may hide any size from the broker's limit."""
        return _size(self.key, self.value, self.headers)


@dataclass(slots=True)
class Outgoing:
    """One record to be produced, its partition chosen by us."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    def size(self) -> int:
        """Bytes of key, value and headers, as the broker's size limit counts them (without framing)."""
        return _size(self.key, self.value, self.headers)


def _size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    size = len(key or b"") + len(value or b"")
    for name, content in headers:
        size += len(name) + len(content or b"") + 2
    return size


@dataclass(slots=True)
class Batch:
    """What one poll gave.

    `revoked` happened before `assigned`. `membership` is the group metadata of this batch: the commit is refused when the
    generation has changed since.
    """

    records: list[Record]
    assigned: tuple[int, ...] = ()
    revoked: tuple[int, ...] = ()
    membership: Any = None


@dataclass(slots=True)
class Transaction:
    """All that one commit writes: outputs, then changelogs, then offsets (partition of the inbox -> next offset)."""

    outputs: list[Outgoing]
    changes: list[Outgoing]
    offsets: dict[int, int]
    membership: Any


@dataclass(frozen=True, slots=True)
class Written:
    """Where a transaction's changelog records ended: the next offset, and the newest broker time, per partition."""

    ends: Mapping[TopicPartition, int] = field(default_factory=dict)
    times: Mapping[TopicPartition, int] = field(default_factory=dict)


class Log(Protocol):
    """One stage's view of the broker. One thread owns it."""

    def poll(self, limit: int, timeout: float) -> Batch:
        """Up to `limit` committed records of owned, resumed partitions; waits up to `timeout` seconds for the first.

        With a limit of 0 nothing is taken, and the place in the group is kept.
        """

    def commit(self, transaction: Transaction) -> Written:
        """Write all or nothing.

        Raises Aborted when nothing was committed or nobody knows, Fenced when another process has our name.
        """

    def bounds(self, partitions: list[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """Low and read-uncommitted high watermark of each."""

    def read(self, spans: dict[TopicPartition, tuple[int, int]]) -> Iterator[list[Record]]:
        """Committed records of each span [from, to), to the very end even over open transactions (KAFKA-10167).

        Raises Aborted when the deadline passes first.
        """

    def committed(self, partitions: list[int]) -> dict[int, int]:
        """Committed position of each inbox partition. Raises ConfigError when one has none."""

    def resume(self, positions: dict[int, tuple[int, int]]) -> None:
        """Deliver exactly these partitions, inbox and replay, from these positions."""

    def hold(self, partition: int) -> None:
        """Deliver nothing more of this partition until the next `resume`."""

    def renew(self) -> None:
        """A new producer of the same name: whatever was in flight is fenced. Raises Fenced."""

    def joined(self) -> bool:
        """Whether the group counts us in: not before the first assignment, nor once it has given us up."""

    def lag(self, places: Mapping[int, int]) -> dict[int, int]:
        """Distance to the end per owned inbox partition, from `places` where it is there, else from the next poll.

        Never asks the broker: of a partition that is not fetched the end stays as it was known.
        """

    def close(self) -> None:
        """Let go of everything; a static member keeps its place in the group."""
