"""What is seen from outside when the dust has settled: the one input of the checker. Plain values; no Kafka, no services.

The harness fills it: `Published` from its own notes, all else by handrail_chaos.gathering.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Published:
    """One record that was sent to an ingest topic.

    `identity` is `<order_id>/<revision>` as in handrail_demo.manifest, None where the record has none of its own; then its
    coordinates name it. `kind` as in handrail_demo.workload.Publication (good, copy, `broken:<what>`, ...).
    `partition` and `offset` are None unless Kafka acknowledged it: then nobody knows whether it is there.
    """

    identity: str | None
    key: str
    kind: str
    acknowledged: bool
    topic: str
    partition: int | None = None
    offset: int | None = None
    revision: int | None = None

    @property
    def name(self) -> str:
        """What is counted: the identity, or `@<topic>/<partition>/<offset>` where the record has none."""
        return f"@{self.topic}/{self.partition}/{self.offset}" if self.identity is None else self.identity


@dataclass(frozen=True, slots=True)
class Record:
    """One committed record.

    `id` and `cause` are the headers `ce_id` and the cause in `hr`, None where there is none. `event` is what a stage
    knows it by: the id, or the coordinates; for a replayed record those of its original, and `replay` is the generation
    of its letter. `body` is the decoded value in the topics of which the checker looks inside, None elsewhere and for a
    value that does not decode. `value` is None for a tombstone, and empty where nobody looks at it.
    """

    partition: int
    offset: int
    key: bytes | None
    id: str | None
    cause: str | None
    event: str
    value: bytes | None
    contract: str | None = None
    body: Mapping[str, Any] | None = None
    replay: int = 0


OUTCOME, NOTICE = "handrail/outcome.v1", "handrail/step-failing.v1"
"""What action tells of a command: its one outcome, and before that, that its first call has failed."""


@dataclass(frozen=True, slots=True)
class Topic:
    """Every committed record of a topic, by partition and offset, in this order.

    `ends` is the next offset of each partition, read uncommitted: what is hidden behind an open transaction is told by
    `hidden`, the partitions that could not be read to their end. Of compacted private topics (`<stage>.state`,
    `<stage>.delayed`) there is only the newest record of each key.
    """

    name: str
    records: tuple[Record, ...] = ()
    ends: Mapping[int, int] = field(default_factory=dict)
    hidden: tuple[int, ...] = ()

    @property
    def outputs(self) -> tuple[Record, ...]:
        """Without notices, which are told beside the one output of an input."""
        return tuple(record for record in self.records if record.contract != NOTICE)


class Role(StrEnum):
    """What is to be expected of a stage's outputs."""

    INGEST = "ingest"
    TRANSFORM = "transform"
    DECISION = "decision"
    ACTION = "action"
    RECOVERY = "recovery"
    COPY = "copy"
    """A stage of a scenario: one output for each input; what it did last is the end of an event."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage, by its name (also its group's), its inbox, and where its outputs go.

    `each` are topics in which each input that is done has exactly one output. `outputs` are all topics that it writes to
    with the input's id as cause, `each` included. `ordered` says that what has one key is handled in the inbox's order.
    `public` says that the world writes to the inbox: then coordinates are the events' ids. `positions` is the group's
    committed position of each partition, None where there is none.
    """

    name: str
    role: Role
    inbox: str
    dead_letters: str = "dead-letters"
    outputs: tuple[str, ...] = ()
    each: tuple[str, ...] = ()
    ordered: bool = True
    public: bool = False
    positions: Mapping[int, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Effect:
    """An effect in the outside system's own books. `id` grows with time; `key` is the idempotency key of its call."""

    id: int
    system: str
    kind: str
    reference: str
    key: str | None
    call: int


@dataclass(frozen=True, slots=True)
class Call:
    """A call in the outside system's own books. `at` and `ended_at` in ms since the epoch by that system's clock."""

    id: int
    at: int
    system: str
    operation: str
    method: str
    reference: str
    key: str | None
    fault: str | None
    ending: str
    status: int | None
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class Table:
    """A stage's local table of one partition, read after its process has ended cleanly. Rows as bytes."""

    state: Mapping[bytes, bytes]
    delayed: Mapping[bytes, bytes]
    marks: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it.

    `effects` is None where no outside system takes part. `tables` are by (stage, partition), where they were read.
    """

    published: tuple[Published, ...]
    stages: tuple[Stage, ...]
    topics: Mapping[str, Topic]
    effects: tuple[Effect, ...] | None = None
    calls: tuple[Call, ...] = ()
    flow: str = "order-to-invoice"
    tables: Mapping[tuple[str, int], Table] = field(default_factory=dict)

    def topic(self, name: str) -> Topic:
        """The topic; an empty one where it was not there."""
        return self.topics.get(name, Topic(name))
