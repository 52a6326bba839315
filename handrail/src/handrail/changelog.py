"""Between a batch's rows and the records of a stage's private topics: there, back after a commit, and back on restore."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from handrail.log import Log, Outgoing, Record, TopicPartition, Written
from handrail.pending import Pending
from handrail.tables import Changes, PartitionTables

_DIGEST = 16
_DIGESTS_PER_RECORD = 32_000  # 512 kB: below every size limit


def topics(stage: str) -> tuple[str, str, str]:
    """The changelogs of a stage: state, marks, delayed."""
    return f"{stage}.state", f"{stage}.marks", f"{stage}.delayed"


def records_of(stage: str, partition: int, pending: Pending) -> Iterator[Outgoing]:
    """The changelog records of one partition's part of a batch."""
    state, marks, delayed = topics(stage)
    for key, value in pending.state.items():
        yield Outgoing(state, partition, key, value)
    digests = list(pending.marks)
    for start in range(0, len(digests), _DIGESTS_PER_RECORD):
        yield Outgoing(marks, partition, None, b"".join(digests[start : start + _DIGESTS_PER_RECORD]))
    for sequence, record in pending.delayed.items():
        yield Outgoing(delayed, partition, sequence.to_bytes(8, "big"), record)


def changes_of(stage: str, partition: int, pending: Pending, written: Written) -> Changes:
    """The same rows for the local tables, with the positions that they were written at."""
    _, marks, _ = topics(stage)
    return Changes(
        state=pending.state,
        delayed=pending.delayed,
        marks=[(written.times.get((marks, partition), 0), list(pending.marks))] if pending.marks else [],
        positions={topic: end for (topic, where), end in written.ends.items() if where == partition},
    )


def changes_from(stage: str, records: Iterable[Record]) -> Changes:
    """Rows from changelog records of one partition, in their order."""
    state, marks, delayed = topics(stage)
    changes = Changes()
    for record in records:
        if record.topic == state and record.key is not None:
            changes.state[record.key] = record.value
        elif record.topic == delayed and record.key is not None:
            changes.delayed[int.from_bytes(record.key, "big")] = record.value
        elif record.topic == marks and record.value:
            value = record.value
            digests = [value[at : at + _DIGEST] for at in range(0, len(value) - len(value) % _DIGEST, _DIGEST)]
            changes.marks.append((record.timestamp, digests))
        changes.positions[record.topic] = record.offset + 1
    return changes


def catch_up(log: Log, stage: str, tables: dict[int, PartitionTables], during: Callable[[], None]) -> int:
    """Bring the tables of these partitions up to the read-uncommitted high watermarks; the number of records read.

    A table whose position the changelog no longer has is wiped and restored from the beginning. `during` is called after
    each chunk. Raises Aborted when the log's deadline passes first: an under-read dedupe table means double effects.
    """
    bounds = log.bounds([(topic, partition) for partition in tables for topic in topics(stage)])
    spans: dict[TopicPartition, tuple[int, int]] = {}
    for partition, table in tables.items():
        wanted = {topic: bounds[topic, partition] for topic in topics(stage)}
        kept = table.positions()
        if any(not low <= kept[topic] <= high for topic, (low, high) in wanted.items() if topic in kept):
            table.wipe()
            kept = {}
        for topic, (low, high) in wanted.items():
            start = kept.get(topic, low)
            if start < high:
                spans[topic, partition] = (start, high)
    count = 0
    for records in log.read(spans):
        by_partition: dict[int, list[Record]] = {}
        for record in records:
            by_partition.setdefault(record.partition, []).append(record)
        for partition, some in by_partition.items():
            tables[partition].apply(changes_from(stage, some))
        count += len(records)
        during()
    for partition, table in tables.items():
        ends = {topic: high for (topic, where), (_, high) in spans.items() if where == partition}
        if ends:
            table.apply(Changes(positions=ends))
    return count
