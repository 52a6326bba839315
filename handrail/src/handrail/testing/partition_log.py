"""One partition of the twin: records and the markers that end transactions, at offsets that are never given twice."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from enum import Enum

from handrail.log import Outgoing, Record, TopicPartition


class State(Enum):
    """Of a transaction."""

    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(slots=True, eq=False)
class MemoryTransaction:
    """A producer's transaction: where it wrote, and the positions that it will commit by (group, partition).

    `since` is the broker's uptime in ms.
    """

    name: str
    epoch: int
    since: int
    state: State = State.OPEN
    partitions: dict[TopicPartition, None] = field(default_factory=dict)
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands at an offset: a record, or (None) the marker that ended its transaction."""

    offset: int
    record: Record | None
    transaction: MemoryTransaction | None = None

    @property
    def committed(self) -> bool:
        """A record that a read_committed reader gets, once the last stable offset is behind it."""
        return self.record is not None and (self.transaction is None or self.transaction.state is State.COMMITTED)


class PartitionLog:
    """Entries in the order of their offsets; compaction and retention leave gaps.

    `low` and `end` are the watermarks, `end` being the next offset: that of a read_uncommitted reader.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.low = 0
        self.end = 0
        self._firsts: dict[MemoryTransaction, int] = {}

    def append(self, record: Outgoing, now: int, transaction: MemoryTransaction | None = None) -> int:
        """Write one record at the broker's time; its offset."""
        kept = Record(record.topic, record.partition, self.end, now, record.key, record.value, tuple(record.headers))
        if transaction is not None:
            self._firsts.setdefault(transaction, self.end)
        return self._add(kept, transaction)

    def mark(self, transaction: MemoryTransaction) -> None:
        """Write the marker that ends a transaction here. It takes an offset, as in Kafka."""
        self._firsts.pop(transaction, None)
        self._add(None, transaction)

    def _add(self, record: Record | None, transaction: MemoryTransaction | None) -> int:
        self.entries.append(Entry(self.end, record, transaction))
        self.end += 1
        return self.end - 1

    def stable(self) -> int:
        """The last stable offset: where the first open transaction begins. Nobody reads committed records beyond."""
        return min(self._firsts.values(), default=self.end)

    def read(self, start: int, end: int | None = None, limit: int | None = None) -> list[Record]:
        """Committed records of [start, end) below the last stable offset, at most `limit`."""
        stop = self.stable() if end is None else min(end, self.stable())
        found: list[Record] = []
        for entry in self.entries[self._index(start) : self._index(stop)]:
            if limit is not None and len(found) >= limit:
                break
            if entry.record is not None and entry.committed:
                found.append(entry.record)
        return found

    def _index(self, offset: int) -> int:
        return bisect_left(self.entries, offset, key=lambda entry: entry.offset)

    # --- what time does to a log

    def compact(self, *, tombstones: bool = False) -> None:
        """Keep the newest committed record of each key below the last stable offset; offsets stay.

        Aborted records and markers go. What is at the very end stays (Kafka's active segment). `tombstones`: their
        `delete.retention.ms` is over, so they go, too.
        """
        stable, last = self.stable(), self.end - 1
        newest = {
            entry.record.key: entry.offset
            for entry in self.entries
            if entry.record is not None and entry.committed and entry.offset < stable
        }

        def stays(entry: Entry) -> bool:
            if entry.offset >= min(stable, last):
                return True
            if entry.record is None or not entry.committed:
                return False
            if entry.record.key is None:
                return True
            return newest[entry.record.key] == entry.offset and not (tombstones and entry.record.value is None)

        self.entries = [entry for entry in self.entries if stays(entry)]

    def drop_before(self, offset: int) -> None:
        """Retention: the low watermark moves to `offset`, never beyond the last stable offset."""
        self.low = max(self.low, min(offset, self.stable()))
        self.entries = self.entries[self._index(self.low) :]
