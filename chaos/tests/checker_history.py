"""Builds what correct services would leave behind, record by record, for test_checker*.py; not by their code.

A world is mutable, so that a test can break it in one place.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from handrail.identity import letter_id, run_id
from handrail_chaos.checker_stage import digest_of
from handrail_chaos.evidence import NOTICE, Effect, Evidence, Published, Record, Role, Stage, Topic
from handrail_chaos.gathering import deployment

FLOW, SOURCE = "order-to-invoice", "ingest.orders.order-accepted"
INGEST, TRANSFORM, DECISION, ACTION = f"{FLOW}.{SOURCE}", f"{FLOW}.transform", f"{FLOW}.decision", "action.billing"
STAGES = deployment(FLOW, SOURCE, ["billing"])
PARTITIONS = 2


@dataclass
class World:
    """Topics as lists of records, stages with positions, and the books."""

    topics: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    published: list[Published] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    stages: tuple[Stage, ...] = STAGES
    positions: dict[tuple[str, int], int | None] = field(default_factory=dict)
    rows: dict[str, dict[tuple[int, bytes], bytes]] = field(default_factory=lambda: defaultdict(dict))
    hidden: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _next: Counter[tuple[str, int]] = field(default_factory=Counter)
    _sequence: Counter[str] = field(default_factory=Counter)
    _state: dict[str, str | None] = field(default_factory=dict)

    # --- records

    def add(self, topic: str, partition: int, event: str | None = None, **given: Any) -> Record:
        """One more record; every second offset is a transaction's marker."""
        offset = self._next[topic, partition]
        self._next[topic, partition] += 2
        own = {"key": b"", "id": event, "cause": None, "value": b""} | given
        record = Record(partition, offset, event=event or f"{topic}/{partition}/{offset}", **own)
        self.topics[topic].append(record)
        return record

    def mark(self, stage: str, record: Record) -> None:
        self.add(f"{stage}.marks", record.partition, value=digest_of(record.event))
        self.rows[f"{stage}.state"].pop((record.partition, b"m/" + digest_of(record.event)), None)

    def pin(self, stage: str, record: Record, pin: bytes) -> None:
        self.rows[f"{stage}.state"][record.partition, b"m/" + digest_of(record.event)] = pin

    def letter(self, stage: str, record: Record, topic: str, generation: int = 1, run: str | None = None) -> Record:
        """The input is given up; recovery keeps its letter."""
        letter = letter_id(stage, record.event)
        self.pin(stage, record, b"X" + generation.to_bytes(4, "big"))
        body = {
            "letter": letter, "generation": generation, "stage": stage, "topic": topic, "run": run,
            "partition": record.partition, "offset": record.offset, "payload_hash": "",
            "step": "invoice" if stage == DECISION else None,
        }  # fmt: skip
        sent = self.add("dead-letters", 0, f"{letter}#{generation}", key=letter.encode(), cause=record.event, body=body)
        self.mark("recovery.letters", sent)
        self.letter_is(letter, generation, "OPEN", sent.event)
        return sent

    def letter_is(self, letter: str, generation: int, state: str, cause: str) -> None:
        body = {"letter": letter, "generation": generation, "state": state}
        self.add("recovery.states", 0, f"{letter}#{generation}#{state}", cause=cause, body=body)

    # --- the way of an event

    def publish(self, order: str, revision: int | None, fate: str = "done", partition: int = 0) -> Record:
        """One record of the source: fate is done, retried, rejected, invalid, undecodable, manual, failed or replayed."""
        identity = None if fate == "undecodable" or revision is None else f"{order}/{revision}"
        body = None if fate == "undecodable" else {"order_id": order, "revision": revision}
        record = self.add(SOURCE, partition, key=order.encode(), body=body)
        self.published.append(
            Published(identity, order, "good", True, SOURCE, record.partition, record.offset, revision)
        )
        if fate in ("invalid", "undecodable"):
            self.letter(INGEST, record, SOURCE)
            return record
        assert identity is not None
        run = run_id(FLOW, {"order_id": order, "revision": str(revision)})
        self.mark(INGEST, record)
        known = any(each.event == run for each in self.topics[TRANSFORM])
        stamped = self.add(TRANSFORM, partition, run, key=order.encode(), cause=record.event)
        if known:
            return record
        self.mark(TRANSFORM, stamped)
        contract = "handrail/prepared.v1"
        prepared = self.add(DECISION, partition, f"prepared-{run}", key=order.encode(), cause=run, contract=contract)
        self.mark(DECISION, prepared)
        self.move(run, identity, "prepared", prepared)
        if fate == "rejected":
            self.move(run, identity, "rejected", prepared)
            return record
        self.move(run, identity, "acting", prepared)
        self.act(run, identity, prepared, 1, fate)
        return record

    def move(self, run: str, identity: str, state: str, cause: Record) -> None:
        order, revision = identity.split("/")
        self._sequence[run] += 1
        body = {
            "flow": FLOW, "run": run, "sequence": self._sequence[run], "previous": self._state.get(run), "state": state,
            "event": "next", "dedupe": {"order_id": order, "revision": revision},
        }  # fmt: skip
        self._state[run] = state
        self.add(
            "runs", 0, f"{run}-{self._sequence[run]}", key=order.encode(), cause=cause.event, body=body,
        )  # fmt: skip

    def act(self, run: str, identity: str, cause: Record, revision: int, fate: str) -> None:
        order, number = identity.split("/")
        partition, key = cause.partition, f"{run}/invoice/r{revision}"
        body = {"run": run, "step": "invoice", "revision": revision, "route": order}
        command = self.add(ACTION, partition, f"c-{key}", key=order.encode(), cause=cause.event, body=body)
        self.mark(ACTION, command)
        failed = fate in ("failed", "replayed") and revision == 1
        status = "failed" if failed else "unknown" if fate == "manual" else "verified"
        if status == "verified":
            self.effects.append(Effect(len(self.effects) + 1, "billing", "invoice", identity, key, len(self.effects)))
        if fate == "retried":
            notice = self.add(
                DECISION, partition, f"f-{key}", key=order.encode(), cause=command.event, contract=NOTICE,
                body=body | {"at": 5},
            )  # fmt: skip
            self.mark(DECISION, notice)
            self.move(run, identity, "acting", notice)
            body = body | {"first_failure_at": 5}
        outcome = self.add(
            DECISION, partition, f"o-{key}", key=order.encode(), cause=command.event, contract="handrail/outcome.v1",
            body=body | {"status": status},
        )  # fmt: skip
        if status == "failed":
            self.move(run, identity, "failed", outcome)
            self.letter(DECISION, outcome, DECISION, run=run)
            if fate == "replayed":
                self.replay(run, identity, outcome)
            return
        self.mark(DECISION, outcome)
        self.move(run, identity, "manual" if status == "unknown" else "done", outcome)
        if status == "verified":
            done = {"order_id": order, "revision": int(number)}
            self.add(f"{FLOW}.done", partition, f"d-{key}", key=order.encode(), body=done)

    def replay(self, run: str, identity: str, outcome: Record) -> None:
        """A person orders it; the decision stage takes its outcome again, and acts anew."""
        letter = letter_id(DECISION, outcome.event)
        asked = self.add("recovery.commands", 0, f"ask-{letter}")
        self.mark("recovery.commands", asked)
        self.order(letter, "REPLAYING", asked.event)
        self.add(f"{DECISION}.replay", outcome.partition, outcome.event, key=outcome.key, replay=1)
        self.rows[f"{DECISION}.state"][outcome.partition, b"p/replay"] = (1 << 20).to_bytes(8, "big")
        self.mark(DECISION, outcome)
        self.order(letter, "RESOLVED", letter)
        self.move(run, identity, "acting", outcome)
        self.act(run, identity, outcome, 2, "done")

    def order(self, letter: str, state: str, cause: str) -> None:
        order = self.add("recovery.letters.replay", 0, f"{letter}-{state}", cause=cause)
        self.mark("recovery.letters", order)
        self.rows["recovery.letters.state"][0, b"p/replay"] = (1 << 20).to_bytes(8, "big")
        self.letter_is(letter, 1, state, order.event)

    # --- one record more or less

    def find(self, topic: str, wanted: Callable[[Record], bool] = lambda _record: True) -> Record:
        return next(record for record in self.topics[topic] if wanted(record))

    def drop(self, topic: str, record: Record) -> None:
        self.topics[topic].remove(record)

    def change(self, topic: str, record: Record, **given: Any) -> None:
        where = self.topics[topic].index(record)
        self.topics[topic][where] = replace(record, **given)

    def swap(self, topic: str, one: Record, other: Record) -> None:
        """Exchange the places of two records of one partition."""
        assert one.partition == other.partition
        records = self.topics[topic]
        first, second = records.index(one), records.index(other)
        records[first], records[second] = replace(other, offset=one.offset), replace(one, offset=other.offset)

    def unmark(self, stage: str, event: str) -> None:
        self.drop(f"{stage}.marks", self.find(f"{stage}.marks", lambda record: record.value == digest_of(event)))

    # --- as evidence

    def evidence(self) -> Evidence:
        """Frozen, with positions behind everything unless a test has set them."""
        names = {"runs", "recovery.states", f"{FLOW}.done", *self.topics}
        for stage in self.stages:
            private = (f"{stage.name}.{kind}" for kind in ("state", "marks", "delayed", "replay"))
            names |= {stage.inbox, stage.dead_letters, *stage.outputs, *private}
        return Evidence(
            tuple(self.published),
            tuple(replace(stage, positions=self._positions(stage)) for stage in self.stages),
            {name: self._topic(name) for name in names},
            tuple(self.effects),
        )

    def _positions(self, stage: Stage) -> dict[int, int | None]:
        found: dict[int, int | None] = dict.fromkeys(range(PARTITIONS), 0)
        for record in self.topics[stage.inbox]:
            found[record.partition] = max(found[record.partition] or 0, record.offset + 1)
        for (name, partition), position in self.positions.items():
            if name == stage.name:
                found[partition] = position
        return found

    def _topic(self, name: str) -> Topic:
        records = list(self.topics[name])
        for offset, ((partition, key), value) in enumerate(self.rows[name].items()):
            records.append(Record(partition, offset, key, None, None, "", value))
        ends = {partition: self._next[name, partition] for partition in range(PARTITIONS)}
        records.sort(key=lambda record: (record.partition, record.offset))
        return Topic(name, tuple(records), ends, self.hidden.get(name, ()))


def typical() -> World:
    """Some of every fate: revisions in their order, copies, trouble and its end."""
    world = World()
    for order, partition in (("10", 0), ("11", 1), ("12", 0)):
        for revision in (1, 2, 3):
            world.publish(order, revision, partition=partition)
    world.publish("10", 1)
    world.publish("13", 1, "rejected")
    world.publish("14", 1, "invalid", 1)
    world.publish("15", 1, "undecodable")
    world.publish("16", 1, "manual", 1)
    world.publish("17", 1, "failed")
    world.publish("18", 1, "replayed", 1)
    return world


def copying(name: str = "copy") -> Stage:
    """A scenario's one stage."""
    return Stage(name, Role.COPY, f"{name}.in", f"{name}.letters", (f"{name}.out",), (f"{name}.out",))
