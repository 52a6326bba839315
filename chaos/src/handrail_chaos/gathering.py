"""Reads the evidence from a Kafka that has come to rest and from the sandbox's books, as an outsider would.

Needs confluent-kafka and the folder contracts/ (handrail_demo.plain); the headers are read here as docs/architecture.md
has them, not by the services' code.
"""

from __future__ import annotations

import struct
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from handrail_demo.plain import PlainContracts
from handrail_sandbox.books import MOST, Books

from handrail_chaos.errors import ChaosError
from handrail_chaos.evidence import NOTICE, OUTCOME, Call, Effect, Evidence, Published, Record, Role, Stage, Topic

_HR = struct.Struct(">BI16sHHH")
_REPLAY = struct.Struct(">BIIqH")
_IDENTIFYING = ("order_id", "revision")
_TELLING = (NOTICE, OUTCOME)
_COMPACTED, _RAW = (".state", ".delayed"), (".marks", ".state", ".delayed")

Headers = Sequence[tuple[str, bytes | None]]


def deployment(flow: str, source: str, systems: Iterable[str]) -> tuple[Stage, ...]:
    """The stages of the services for one flow, without positions; topics as docs/architecture.md names them."""
    actions = tuple(f"action.{system}" for system in systems)
    decision = f"{flow}.decision"
    return (
        Stage(
            f"{flow}.{source}",
            Role.INGEST,
            source,
            outputs=(f"{flow}.transform",),
            each=(f"{flow}.transform",),
            ordered=False,
            public=True,
        ),
        Stage(f"{flow}.transform", Role.TRANSFORM, f"{flow}.transform", outputs=(decision,), each=(decision,)),
        Stage(decision, Role.DECISION, decision, outputs=("runs", "tasks", *actions)),
        *(Stage(name, Role.ACTION, name, outputs=(decision,), each=(decision,)) for name in actions),
        Stage("recovery.commands", Role.RECOVERY, "recovery.commands", outputs=(decision,), ordered=False),
        Stage(
            "recovery.letters",
            Role.RECOVERY,
            "dead-letters",
            "dead-letters.quarantine",
            outputs=("recovery.states",),
            ordered=False,
        ),
    )


def gather(
    bootstrap: str,
    published: Iterable[Published],
    stages: Iterable[Stage],
    contracts: PlainContracts,
    *,
    books: Path | None = None,
    flow: str = "order-to-invoice",
    within_s: float = 60.0,
) -> Evidence:
    """Everything that is there now. Nothing may be under way any more.

    `books` is the sandbox's database. `within_s` limits how long a partition that does not end is waited for: an open
    transaction hides its end, and that is evidence, too. Raises ChaosError when Kafka or the books do not answer.
    """
    try:
        found = [replace(stage, positions=_positions(bootstrap, stage, within_s)) for stage in stages]
        topics = _read_topics(bootstrap, _Reading(found, contracts, flow), within_s)
    except KafkaException as error:
        raise ChaosError(f"the evidence can't be read at {bootstrap}: {error.args[0].str()}") from error
    effects, calls = (None, ()) if books is None else _read_books(books)
    return Evidence(tuple(published), tuple(found), topics, effects, calls, flow)


class _Reading:
    """Which topics are read, what is kept of their records, and how a stage names them."""

    def __init__(self, stages: Sequence[Stage], contracts: PlainContracts, flow: str) -> None:
        self._contracts = contracts
        roles = {stage.role for stage in stages}
        # Who only looks at a stage of its own may share the broker with others: what they all write is not its evidence.
        self.wanted: set[str] = {"recovery.letters.replay"}
        if Role.DECISION in roles:
            self.wanted |= {"runs", f"{flow}.done"}
        if Role.RECOVERY in roles:
            self.wanted.add("recovery.states")
        self.public: set[str] = set()
        self.sources: set[str] = set()
        self.bodies = set(self.wanted)
        for stage in stages:
            private = [f"{stage.name}.{kind}" for kind in ("state", "marks", "delayed", "replay")]
            self.wanted |= {stage.inbox, stage.dead_letters, *stage.outputs, *private}
            self.bodies.add(stage.dead_letters)
            if stage.public:
                self.public |= {stage.inbox, f"{stage.name}.replay"}
            if stage.role is Role.ACTION:
                self.bodies.add(stage.inbox)
            if stage.role is Role.COPY:
                self.bodies |= set(stage.each)
            if stage.role in (Role.INGEST, Role.COPY):
                self.sources.add(stage.inbox)

    def record(self, topic: str, message: Message) -> Record:
        """A record with what is looked at of it; more would not fit into memory after a long storm."""
        partition, offset = int(message.partition() or 0), int(message.offset() or 0)
        key, raw = message.key(), message.value()
        value = raw.encode() if isinstance(raw, str) else raw
        headers = dict(message.headers() or ())
        id_ = _text(headers.get("ce_id"))
        event, replay = f"{topic}/{partition}/{offset}", 0
        original = _replay(headers.get("hr-replay")) if topic.endswith(".replay") else None
        if original is not None:
            event, replay = original
        if id_ is not None and topic not in self.public:
            event = id_
        contract = _text(headers.get("ce_type"))
        body = self._body(topic, contract, value)
        kept = value if value is None or topic.endswith(_RAW) else b""
        return Record(
            partition, offset, _bytes(key), id_, _cause(headers.get("hr")), event, kept, contract, body, replay
        )

    def _body(self, topic: str, contract: str | None, value: bytes | None) -> Mapping[str, Any] | None:
        if value is None or not (topic in self.bodies or topic in self.sources or contract in _TELLING):
            return None
        try:
            body = self._contracts.decode(value)[1]
        except ValueError:
            return None
        if topic in self.sources:
            return {name: body[name] for name in _IDENTIFYING if name in body}
        return {name: value for name, value in body.items() if name != "stack" and not isinstance(value, bytes | list)}


def _read_topics(bootstrap: str, reading: _Reading, within_s: float) -> dict[str, Topic]:
    consumer = _consumer(bootstrap)
    try:
        there = consumer.list_topics(timeout=within_s).topics
        names = sorted(reading.wanted & {name for name, topic in there.items() if topic.error is None})
        ends = _ends(bootstrap, {name: list(there[name].partitions) for name in names}, within_s)
        kept: dict[str, dict[Any, Record]] = {name: {} for name in names}
        left = {where for where, end in ends.items() if end > 0}
        consumer.assign([TopicPartition(name, partition, OFFSET_BEGINNING) for name, partition in left])

        def take(message: Message) -> None:
            name = str(message.topic())
            record = reading.record(name, message)
            compacted = name.endswith(_COMPACTED)
            place = (record.partition, record.key) if compacted else (record.partition, record.offset)
            kept[name][place] = record

        hidden = _through(consumer, ends, left, take, within_s)
        return {name: _topic(name, kept.pop(name), ends, hidden) for name in names}
    finally:
        consumer.close()


def _topic(
    name: str, records: Mapping[Any, Record], ends: Mapping[tuple[str, int], int], hidden: set[tuple[str, int]]
) -> Topic:
    ordered = sorted(records.values(), key=lambda record: (record.partition, record.offset))
    return Topic(
        name,
        tuple(ordered),
        {partition: end for (topic, partition), end in ends.items() if topic == name},
        tuple(sorted(partition for topic, partition in hidden if topic == name)),
    )


def _through(
    consumer: Consumer,
    ends: Mapping[tuple[str, int], int],
    left: set[tuple[str, int]],
    take: Callable[[Message], None],
    within_s: float,
) -> set[tuple[str, int]]:
    """Every committed record up to the ends; the partitions of which the end was not seen, without news for `within_s`."""
    until = time.monotonic() + within_s
    while left and time.monotonic() < until:
        for message in consumer.consume(5_000, 0.2):
            error = message.error()
            where = (str(message.topic()), int(message.partition() or 0))
            if error is None:
                take(message)
                until = time.monotonic() + within_s
            elif error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            elif int(message.offset() or 0) >= ends[where]:
                left.discard(where)
    return left


def _ends(bootstrap: str, partitions: Mapping[str, list[int]], within_s: float) -> dict[tuple[str, int], int]:
    """High watermarks: asked with read_committed, Kafka would give the last stable offset."""
    consumer = _consumer(bootstrap, "read_uncommitted")
    try:
        ends = {}
        for name, numbers in partitions.items():
            for partition in numbers:
                marks = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=within_s)
                if marks is None:
                    raise ChaosError(f"Kafka at {bootstrap} did not say where {name}/{partition} ends")
                ends[name, partition] = int(marks[1])
        return ends
    finally:
        consumer.close()


def _positions(bootstrap: str, stage: Stage, within_s: float) -> dict[int, int | None]:
    """By a consumer that joins no group: asking must not move anything."""
    consumer = _consumer(bootstrap, group=stage.name)
    try:
        topic = consumer.list_topics(stage.inbox, timeout=within_s).topics[stage.inbox]
        if topic.error is not None:
            raise ChaosError(f"there is no topic {stage.inbox} at {bootstrap}")
        asked = [TopicPartition(stage.inbox, partition) for partition in topic.partitions]
        found = consumer.committed(asked, timeout=within_s)
        return {each.partition: each.offset if each.offset >= 0 else None for each in found}
    finally:
        consumer.close()


def _consumer(bootstrap: str, isolation: str = "read_committed", group: str | None = None) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group or f"evidence-{uuid.uuid4()}",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 20,
            "log_level": 0,
        }
    )


def _cause(header: bytes | str | None) -> str | None:
    """The cause in the header `hr`: version, flow version, run, three lengths, then flow, cause and route."""
    hr = _bytes(header)
    if hr is None or len(hr) < _HR.size:
        return None
    _, _, _, flow, cause, _ = _HR.unpack_from(hr)
    return _text(hr[_HR.size + flow : _HR.size + flow + cause]) or None


def _replay(given: bytes | str | None) -> tuple[str, int] | None:
    """The original's coordinates and the letter's generation, by the header `hr-replay`."""
    header = _bytes(given)
    if header is None or len(header) < _REPLAY.size:
        return None
    _, generation, partition, offset, size = _REPLAY.unpack_from(header)
    topic = _text(header[_REPLAY.size : _REPLAY.size + size])
    return f"{topic}/{partition}/{offset}", generation


def _text(raw: bytes | str | None) -> str | None:
    if raw is None or isinstance(raw, str):
        return raw
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _bytes(raw: bytes | str | None) -> bytes | None:
    return raw.encode() if isinstance(raw, str) else raw


def _read_books(path: Path) -> tuple[tuple[Effect, ...], tuple[Call, ...]]:
    with Books(path) as books:
        effects = tuple(
            Effect(row["id"], row["system"], row["kind"], row["reference"], row["idempotency_key"], row["call"])
            for row in _pages(books.effects)
        )
        calls = tuple(
            Call(
                row["id"],
                row["at"],
                row["system"],
                row["operation"],
                row["method"],
                row["reference"],
                row["idempotency_key"],
                row["fault"],
                row["ending"],
                row["status"],
                row["ended_at"],
            )
            for row in _pages(books.calls)
        )
    return effects, calls


def _pages(read: Callable[..., list[dict[str, Any]]]) -> Iterable[dict[str, Any]]:
    after = 0
    while rows := read(after=after, limit=MOST):
        yield from rows
        after = int(rows[-1]["id"])
