"""What must hold of the model's world: judged by what is committed at the broker and by what lies on the disks.

Nothing of the stage's own code decides here; only formats are shared (contracts, ids, the layout of the changelogs).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from handrail.identity import mark
from handrail.log import Record, TopicPartition
from handrail.pending import DELAYED, generation_of
from handrail.recovery.letter import headers_of
from handrail.stage import private_topics
from handrail.testing.model.subject import LETTERS, OUT, PARTITIONS, STAGE, event_id
from handrail.testing.model.world import Process, World
from handrail.testing.partition_log import Entry

STATE, MARKS, DELAYS = (f"{STAGE}.{kind}" for kind in ("state", "marks", "delayed"))
RESOLVED = "recovery.letters.replay"
FOREIGN = b"x/"


@dataclass(slots=True)
class Sent:
    """One output: for which input, as what, in which replay, the number of its input and its key's count."""

    event: str
    what: str
    replay: int
    number: int
    count: int


@dataclass(slots=True)
class Tables:
    """What a partition's changelogs say."""

    state: dict[bytes, bytes] = field(default_factory=dict)
    delayed: dict[bytes, bytes] = field(default_factory=dict)
    marks: set[bytes] = field(default_factory=set)


@dataclass(slots=True)
class Seen:
    """All that is committed at this moment."""

    sent: dict[str, list[Sent]] = field(default_factory=lambda: defaultdict(list))  # by key, in order
    letters: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # event -> generations
    resolved: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # letter -> generations
    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)  # event -> newest letter
    tables: dict[int, Tables] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Checker:
    """Keeps everything that was ever written, before compaction and retention take it, and judges it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._contracts = world.subject.contracts
        self._kept: dict[TopicPartition, list[Entry]] = {
            (topic, partition): []
            for topic in (f"{STAGE}.in", OUT, LETTERS, RESOLVED, *private_topics(STAGE))
            for partition in range(PARTITIONS)
        }
        self._decoded: dict[int, Mapping[str, Any]] = {}
        self._positions: dict[int, int] = {}
        self._signature: Any = None
        self._judged: dict[tuple[str, int], dict[str, int]] = {}
        self.seen = Seen()

    # --- gathering

    def collect(self) -> bool:
        """Take note of what is new; whether anything is."""
        broker = self._world.broker
        for where, kept in self._kept.items():
            after = kept[-1].offset if kept else -1
            new = []
            for entry in reversed(broker.log(where).entries):
                if entry.offset <= after:
                    break
                new.append(entry)
            kept.extend(reversed(new))
        signature = (tuple(len(kept) for kept in self._kept.values()), tuple(broker.offsets.values()))
        changed = bool(signature != self._signature)
        self._signature = signature
        return changed

    def committed(self, topic: str, partition: int, below: int | None = None) -> Iterator[Record]:
        """Every committed record, also those that an open transaction still hides."""
        for entry in self._kept[topic, partition]:
            if below is not None and entry.offset >= below:
                return
            if entry.record is not None and entry.committed:
                yield entry.record

    def _body(self, record: Record) -> Mapping[str, Any]:
        key = id(record)  # records are kept in `_kept`, so that an id is never given twice
        if key not in self._decoded:
            self._decoded[key] = self._contracts.decode(record.value or b"")[1]
        return self._decoded[key]

    def tables(self, partition: int, ends: Mapping[str, int] | None = None) -> Tables:
        """The changelogs of a partition, up to `ends` (topic -> offset)."""
        found = Tables()
        below = ends or {}
        for topic, rows in ((STATE, found.state), (DELAYS, found.delayed)):
            for record in self.committed(topic, partition, None if ends is None else below.get(topic, 0)):
                key = record.key or b""
                if record.value is None:
                    rows.pop(key, None)
                elif not key.startswith(FOREIGN):
                    rows[key] = record.value
        for record in self.committed(MARKS, partition, None if ends is None else below.get(MARKS, 0)):
            value = record.value or b""
            found.marks.update(value[at : at + 16] for at in range(0, len(value), 16))
        return found

    def look(self) -> Seen:
        seen = Seen()
        for partition in range(PARTITIONS):
            for record in self.committed(OUT, partition):
                body = self._body(record)
                sent = Sent(
                    event_id(body), body["customer_id"], body["account_balance_minor"], body["revision"],
                    body["total_minor"],
                )  # fmt: skip
                seen.sent[body["order_id"]].append(sent)
            for record in self.committed(LETTERS, partition):
                letter = dict(self._body(record))
                event = self._event(letter)
                seen.letters[event].append(letter["generation"])
                seen.bodies[event] = letter
            for record in self.committed(RESOLVED, partition):
                order = self._body(record)
                seen.resolved[order["letter"]].append(order["generation"])
            seen.tables[partition] = tables = self.tables(partition)
            for raw in tables.delayed.values():
                seen.waiting[self._event(self._contracts.decode(raw)[1])] += 1
        return seen

    def _event(self, row: Mapping[str, Any]) -> str:
        """The id that the original was published with."""
        return (dict(headers_of(row["headers"])).get("ce_id") or b"").decode()

    # --- judging

    def check(self) -> None:
        """All that must hold at all times. Raises AssertionError."""
        if self.collect():
            self.seen = self.look()
            self._outputs()
            self._places()
            self._positions_never_go_back()
        for process in self._world.processes():
            self._disk(process)

    def has_intent(self, event: str) -> bool:
        """Whether it was ever committed that this call will be made."""
        self.collect()
        partition = self._world.inputs[event].partition
        row = b"t/jobs/" + event.encode()
        return any(record.key == row and record.value for record in self.committed(STATE, partition))

    def _outputs(self) -> None:
        """Of each key: counted without gap or repeat, as the table has it; inputs in order, each once."""
        for key, sent in self.seen.sent.items():
            counts = [each.count for each in sent]
            assert counts == list(range(1, len(sent) + 1)), f"outputs of {key} count {counts}"
            once = [(each.event, each.what) for each in sent]
            assert len(once) == len(set(once)), f"twice in the outputs of {key}: {once}"
            first = [each.number for each in sent if each.what == "done" and not each.replay]
            assert first == sorted(first), f"outputs of {key} are not in order: {first}"
        for key in self._world.numbers:
            partition = next(each.partition for each in self._world.inputs.values() if each.key == key)
            raw = self.seen.tables[partition].state.get(b"t/counts/" + key.encode())
            count = self._contracts.decode(raw)[1]["sequence"] if raw else 0
            assert count == len(self.seen.sent[key]), f"the table counts {count} outputs of {key}"

    def _places(self) -> None:
        """Each input whose position is committed is in exactly one place, the others are in none."""
        taken = self._taken()
        done = {each.event: each for sent in self.seen.sent.values() for each in sent if each.what == "done"}
        for event, given in self._world.inputs.items():
            tables = self.seen.tables[given.partition]
            generations = self.seen.letters.get(event, [])
            assert generations == list(range(1, len(generations) + 1)), f"letters of {event}: {generations}"
            digest = mark(event)
            pin = tables.state.get(b"m/" + digest)
            places = [
                *(["done"] if event in done else []),
                *(["waiting"] * self.seen.waiting.get(event, 0)),
                *(["dead"] if generation_of(pin) else []),
            ]
            assert len(places) == (event in taken), f"{event} is in {places or 'no place'}, taken: {event in taken}"
            assert (event in done) == (digest in tables.marks), f"{event}: the mark does not tell of its output"
            assert ("waiting" in places) == (pin == DELAYED), f"{event}: the pin does not tell that it waits"
            if "dead" in places:
                assert generation_of(pin) == len(generations), f"{event}: the pin is not of its newest letter"
            if event in done:
                assert done[event].replay == len(generations), f"{event} passed by an older generation"
                assert not given.torn
            if generations:
                resolved = self.seen.resolved.get(self.seen.bodies[event]["letter"], [])
                assert resolved == ([len(generations)] if event in done else []), f"{event}: resolved {resolved}"

    def _taken(self) -> set[str]:
        """Ids of inputs that stand before the committed positions."""
        found = set()
        for partition in range(PARTITIONS):
            position = self._world.broker.offsets[STAGE, partition]
            for record in self.committed(f"{STAGE}.in", partition, position):
                found.add((dict(record.headers)["ce_id"] or b"").decode())
        return found

    def _positions_never_go_back(self) -> None:
        for partition in range(PARTITIONS):
            now = self._world.broker.offsets[STAGE, partition]
            assert now >= self._positions.get(partition, 0), f"the position of {partition} went back to {now}"
            self._positions[partition] = now

    def _disk(self, process: Process) -> None:
        """The tables of a process are what was committed up to the positions that they tell, and never more."""
        if process.stepping or not process.alive:
            return
        calls = {partition for partition, _ in process.desk.open}
        assert calls <= process.driver.stage._owned.keys(), f"calls are open for {calls} which {process.home} lost"
        for partition, owned in process.driver.stage._owned.items():
            tables = owned.tables
            positions = tables.positions()
            place = (str(process.home), partition)
            if self._judged.get(place) == positions:
                continue
            wanted = self.tables(partition, positions)
            found = {key: value for key, value in tables.scan_state(b"") if not key.startswith(FOREIGN)}
            assert found == wanted.state, f"state rows of {place} at {positions}"
            rows = {number.to_bytes(8, "big"): raw for number, raw in tables.scan_delayed()}
            assert rows == wanted.delayed, f"delayed rows of {place} at {positions}"
            tables.begin_batch()
            marked = {digest for digest in map(mark, self._world.inputs) if tables.marked(digest)}
            tables.end_batch()
            assert marked == wanted.marks - {FOREIGN * 8}, f"marks of {place} at {positions}"
            self._judged[place] = positions

    # --- at the end

    def check_end(self) -> None:
        """Once everything is healed and drained: nothing waits, nothing is missing, the tables are at the end."""
        self.check()
        seen, world = self.seen, self._world
        assert not seen.waiting
        published = {
            (dict(record.headers)["ce_id"] or b"").decode()
            for partition in range(PARTITIONS)
            for record in self.committed(f"{STAGE}.in", partition)
        }
        done: dict[str, set[str]] = defaultdict(set)
        for sent in seen.sent.values():
            for each in sent:
                done[each.event].add(each.what)
        for event, given in world.inputs.items():
            wanted = set() if given.torn or event not in published else {"done", given.kind} - {"plain"}
            assert done.get(event, set()) == wanted, f"{event} ended as {done.get(event)}"
        for partition in range(PARTITIONS):
            last = max((record.offset for record in self.committed(f"{STAGE}.in", partition)), default=-1)
            assert world.broker.offsets[STAGE, partition] == last + 1, f"inputs are left in {partition}"
        owned = {
            partition: tables.tables.positions()
            for process in world.running.values()
            for partition, tables in process.driver.stage._owned.items()
        }
        assert sorted(owned) == list(range(PARTITIONS))
        for partition in owned:
            reached = self.tables(partition, owned[partition])
            assert reached == seen.tables[partition], f"the tables of {partition} are behind: {owned[partition]}"
