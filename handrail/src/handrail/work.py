"""What a stage holds: a partition that is its own, and the work of one step until its commit."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from handrail import telemetry
from handrail.admission import Arrival
from handrail.contracts import Contracts
from handrail.crashes import Crashes
from handrail.message import Message
from handrail.outbox import Outbox
from handrail.pending import TIMERS, Pending, timer_of
from handrail.spec import Spec
from handrail.tables import PartitionTables
from handrail.waiting import Waiting


@dataclass(slots=True)
class Owned:
    """One partition of the inbox that is ours.

    `held` names the flow version that it waits for, `held_since` is the time (ms since the epoch) of what it stands before.
    """

    partition: int
    tables: PartitionTables
    waiting: Waiting
    crashes: Crashes
    offset: int = 0
    held: str | None = None
    held_since: int = 0
    pending: Pending | None = None

    def begin(self) -> Pending:
        """This step's part of the partition."""
        if self.pending is None:
            self.pending = Pending(self.tables)
        return self.pending

    def end(self) -> None:
        """The step is over, committed or not."""
        self.pending = None
        self.crashes.free()
        self.tables.end_batch()


@dataclass(slots=True)
class Work:
    """What one step gathers until its commit.

    `taken` are the partition and key of each record that was handled, `cut` says that some were left for the next step;
    `retries` are how late (ms after it was due) and how old (ms after its first failure) each retry was; `duplicates`
    counts those by flow.
    """

    outbox: Outbox
    now: int
    jobs: list[tuple[int, str, Any]] = field(default_factory=list)
    taken: list[tuple[int, str]] = field(default_factory=list)
    cut: bool = False
    retries: list[tuple[int, int]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str | None] = field(default_factory=Counter)
    spans: list[dict[str, Any]] = field(default_factory=list)


def queue_key(spec: Spec, sequence: int, key: bytes | None) -> str:
    """Which delayed records wait for each other: those of one key, or (without ordering or key) none."""
    return key.hex() if spec.ordering == "key" and key else f"#{sequence}"


def waiting_rows(
    spec: Spec, contracts: Contracts, tables: PartitionTables, timer_since: Callable[[bytes], int]
) -> Waiting:
    """What waits in a partition, from its tables, which do not tell since when a timer is there."""
    waiting = Waiting()
    for sequence, raw in tables.scan_delayed():
        row = contracts.decode(raw)[1]
        since = row["first_failed_at"] or row["timestamp"]
        waiting.add(sequence, queue_key(spec, sequence, row["key"]), row["due_at"], since)
    for row_key, value in tables.scan_state(TIMERS):
        waiting.set_timer(row_key, timer_of(row_key, value)[2], timer_since(row_key))
    return waiting


@dataclass(slots=True)
class Lineage:
    """Where one handling of a message stands in its trace.

    `context` is that of its own span, which whatever comes of the message hangs below; `parent` is what the span hangs
    below itself; `link` is the context of the operator's order that caused it, where there is one in another trace.
    """

    context: str
    parent: str | None
    link: str | None = None


def span_of(
    stage: str, arrival: Arrival, message: Message | None, lineage: Lineage, started: int, error: str | None
) -> dict[str, Any]:
    """What Telemetry.record is told about a message that was handled, once its batch has committed.

    `message` is None where the record did not decode. Of a retry and a replay, too, it is the original's place.
    """
    attributes: dict[str, Any] = {
        telemetry.MESSAGE_ID: arrival.event,
        telemetry.DESTINATION: arrival.record.topic,
        telemetry.PARTITION: str(arrival.record.partition),
        telemetry.OFFSET: arrival.record.offset,
        telemetry.GROUP: stage,
    }
    if message is not None:
        attributes[telemetry.CONTRACT] = message.type
    run = arrival.meta.run
    if run is not None:
        attributes |= {telemetry.RUN: run.id, telemetry.FLOW: run.flow, telemetry.FLOW_VERSION: run.version}
    if arrival.replay is not None:
        attributes[telemetry.REPLAY] = arrival.replay.generation
    if arrival.attempt:
        attributes[telemetry.ATTEMPT] = arrival.attempt + 1
    return {
        "stage": stage,
        "operation": "process",
        "parent": lineage.parent,
        "context": lineage.context,
        "link": lineage.link,
        "start_ns": started,
        "end_ns": time.time_ns(),
        "attributes": attributes,
        "error": error,
    }
