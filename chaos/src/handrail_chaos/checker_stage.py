"""One stage, from its topics: which of its inputs are done, dead or waiting, and whether marks, rows, letters, outputs and
positions say the same. Pure.

The parts of a transaction are written by one commit, so they stand or fall together. From outside they can be joined again:
an input's id gives its digest in the marks and pins, its letter's id, and the cause of its outputs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from handrail.identity import letter_id

from handrail_chaos.checker_words import Findings
from handrail_chaos.evidence import NOTICE, OUTCOME, Evidence, Record, Role, Stage, Table

DIGEST = 16
_PIN, _REPLAY_POSITION, _DEAD = b"m/", b"p/replay", b"X"
_OPEN_ROWS = (b"t/effects/", b"t/queues/", b"c/")
"""Rows of an action stage that are there only while a call is under way."""

_MOVING = ("handrail/prepared.v1", NOTICE, OUTCOME)

Place = tuple[int, str]
"""An input: its partition and its event."""


def digest_of(event: str) -> bytes:
    """The 16 bytes that stand for an event in marks and pins (docs/architecture.md)."""
    return blake2b(event.encode(), digest_size=DIGEST, person=b"handrail.mark").digest()


@dataclass(frozen=True, slots=True)
class Dead:
    """The newest letter about an input."""

    generation: int
    body: Mapping[str, Any]


class StageView:
    """What the topics say about one stage's inputs. A place is (partition, event)."""

    def __init__(self, evidence: Evidence, stage: Stage) -> None:
        self.stage = stage
        self.inbox = evidence.topic(stage.inbox)
        self.replays = evidence.topic(f"{stage.name}.replay")
        self.first: dict[Place, int] = {}
        for record in self.inbox.records:
            self.first.setdefault((record.partition, record.event), record.offset)
        self.replayed: dict[Place, list[int]] = defaultdict(list)
        for record in self.replays.records:
            self.replayed[record.partition, record.event].append(record.replay)
        self.keys = {(partition, event): (partition, digest_of(event)) for partition, event in self._known()}
        self.names = {key: place for place, key in self.keys.items()}
        self.marks = _marks(evidence, stage)
        self.rows = _newest(evidence, f"{stage.name}.state")
        self.delayed = _newest(evidence, f"{stage.name}.delayed")
        self.pins = {
            (partition, key[len(_PIN) :]): value
            for (partition, key), value in self.rows.items()
            if key.startswith(_PIN)
        }
        self.letters, self.strange_letters = self._letters(evidence)

    def _known(self) -> list[Place]:
        return [*self.first, *(place for place in self.replayed if place not in self.first)]

    def _letters(self, evidence: Evidence) -> tuple[dict[Place, Dead], list[str]]:
        """The newest letter of each input, and letters about inputs that nobody sent."""
        places = {letter_id(self.stage.name, event): (partition, event) for partition, event in self._known()}
        letters: dict[Place, Dead] = {}
        strange = []
        for record in evidence.topic(self.stage.dead_letters).records:
            body = record.body
            if body is None or body.get("stage") != self.stage.name:
                continue
            place = places.get(body["letter"])
            if place is None:
                strange.append(str(body["letter"]))
            elif place not in letters or letters[place].generation < body["generation"]:
                letters[place] = Dead(body["generation"], body)
        return letters, strange

    def done(self, place: Place) -> bool:
        """Whether it has a DONE mark."""
        return self.keys[place] in self.marks

    def dead(self, place: Place) -> int:
        """The generation of its DEAD pin; 0 where it has none."""
        pin = self.pins.get(self.keys[place])
        return int.from_bytes(pin[1:], "big") if pin and pin[:1] == _DEAD else 0

    def waits(self, place: Place) -> bool:
        """Whether it is pinned as DELAYED."""
        pin = self.pins.get(self.keys[place])
        return pin is not None and pin[:1] != _DEAD

    def settled(self) -> set[str]:
        """The events that may have outputs: done, or given up with a letter."""
        return {place[1] for place in self.keys if self._settled(place)}

    def _settled(self, place: Place) -> bool:
        return self.done(place) or self.dead(place) > 0

    def said(self, place: Place) -> str:
        """What to call an input."""
        return f"{self.stage.name}[{place[0]}] {place[1]}"

    # --- rules

    def check(self, found: Findings) -> None:
        """Everything that one stage's own topics can tell."""
        self._positions(found)
        self._inputs(found)
        self._marks_and_pins(found)
        self._waiting(found)
        self._dead_letters(found)
        if self.stage.role is Role.ACTION:
            for (partition, key), _ in self.rows.items():
                if key.startswith(_OPEN_ROWS):
                    found.lost(f"{self.stage.name}[{partition}]", f"the row {key!r} is still open")

    def _positions(self, found: Findings) -> None:
        """Lost: a record at or after the position. Torn: no position, or one beyond the end."""
        last: dict[int, Record] = {record.partition: record for record in self.inbox.records}
        for partition, end in self.inbox.ends.items():
            name, position = f"{self.stage.name}[{partition}]", self.stage.positions.get(partition)
            newest = last.get(partition)
            if position is None:
                found.torn(name, "the group has no position: nothing would be fenced")
            elif position > end:
                found.torn(name, f"its position {position} is beyond the end {end}")
            elif newest is not None and newest.offset >= position:
                found.lost(name, f"its position is {position}, and {newest.event} at {newest.offset} is not handled")
        for record in self.replays.records:
            raw = self.rows.get((record.partition, _REPLAY_POSITION))
            if raw is None or record.offset >= int.from_bytes(raw, "big"):
                found.lost(self.said((record.partition, record.event)), "it was replayed, and that was not handled")

    def _inputs(self, found: Findings) -> None:
        """Torn: a position that has passed an input without a mark, or a mark before its position."""
        for place, offset in self.first.items():
            position = self.stage.positions.get(place[0]) or 0
            settled = self._settled(place) or self.waits(place)
            if offset < position and not settled:
                found.torn(self.said(place), f"the position {position} has passed it at {offset}, and it has no mark")
            elif offset >= position and settled:
                found.torn(self.said(place), f"it is marked, and the position {position} is not behind it at {offset}")

    def _marks_and_pins(self, found: Findings) -> None:
        """Torn: a mark of nothing, or two different ones. Twice: DONE twice."""
        for (partition, digest), count in self.marks.items():
            place = self.names.get((partition, digest))
            if place is None:
                found.torn(f"{self.stage.name}[{partition}]", f"the mark {digest.hex()} belongs to no input")
                continue
            if count > 1:
                found.twice(self.said(place), f"it was marked as done {count} times")
            if (partition, digest) in self.pins:
                found.torn(self.said(place), f"it is done, and pinned as {self.pins[partition, digest]!r}")
        for partition, digest in self.pins:
            if (partition, digest) not in self.names:
                found.torn(f"{self.stage.name}[{partition}]", f"the pin {digest.hex()} belongs to no input")

    def _waiting(self, found: Findings) -> None:
        """Lost: what still waits. Torn: what waits without its row, or the other way round."""
        rows = Counter(partition for partition, _ in self.delayed)
        pinned = [place for place in self.keys if self.waits(place)]
        for place in pinned:
            found.lost(self.said(place), "it still waits")
        for partition, count in (rows | Counter(place[0] for place in pinned)).items():
            waiting = sum(place[0] == partition for place in pinned)
            if rows[partition] != waiting:
                found.torn(
                    f"{self.stage.name}[{partition}]",
                    f"{rows[partition]} delayed records, and {waiting} of its inputs are pinned as delayed (of {count})",
                )

    def _dead_letters(self, found: Findings) -> None:
        """Torn: a letter or a DEAD pin without the other. A replay closes a pin of its own generation only."""
        for strange in self.strange_letters:
            found.torn(self.stage.name, f"the letter {strange} is about an input that was never there")
        for place, letter in self.letters.items():
            pinned = self.dead(place)
            replayed = letter.generation in self.replayed.get(place, ())
            if pinned != letter.generation and not (replayed and (self.done(place) or self.waits(place))):
                state = f"pinned as dead {pinned}" if pinned else "done" if self.done(place) else "without a mark"
                found.torn(self.said(place), f"there is a letter of generation {letter.generation}, and it is {state}")
        for place in self.keys:
            if self.dead(place) and place not in self.letters:
                found.torn(self.said(place), "it is pinned as a dead letter, and there is no letter")

    def check_table(self, partition: int, table: Table, found: Findings) -> None:
        """Torn: a local table that is not what the changelogs say."""
        name = f"{self.stage.name}[{partition}]"
        state = {key: value for (where, key), value in self.rows.items() if where == partition}
        delayed = {key: value for (where, key), value in self.delayed.items() if where == partition}
        marks = {digest for where, digest in self.marks if where == partition}
        for what, here, there in (
            ("state row", dict(table.state), state),
            ("delayed record", dict(table.delayed), delayed),
            ("mark", dict.fromkeys(table.marks), dict.fromkeys(marks)),
        ):
            differing = sorted(key for key in {*here, *there} if here.get(key, b"-") != there.get(key, b"-"))
            if differing:
                found.torn(
                    name,
                    f"its local table differs from Kafka: {len(differing)} times, first the {what} {differing[0]!r}",
                )


def check_outputs(evidence: Evidence, views: list[StageView], found: Findings) -> None:
    """Outputs against the marks of the stages that write them.

    Torn: an output whose cause no writer has settled; a done input without its output; a letter beside an output. Twice:
    more than one output for one input where there must be one, and one id twice in a topic (two copies of one event pass
    ingest by the same id, each with its own cause).
    """
    writers: dict[str, list[StageView]] = defaultdict(list)
    for view in views:
        for topic in view.stage.outputs:
            writers[topic].append(view)
    for topic, authors in writers.items():
        settled = set().union(*(view.settled() for view in authors))
        for record in evidence.topic(topic).records:
            if record.cause is not None and record.cause not in settled:
                found.torn(f"{topic}/{record.partition}/{record.offset}", f"its cause {record.cause} has no mark")
    for view in views:
        for topic in view.stage.each:
            _one_each(evidence, view, topic, found)
        if view.stage.role is Role.DECISION:
            _moves(evidence, view, found)
    _ids(evidence, views, found)


def _one_each(evidence: Evidence, view: StageView, topic: str, found: Findings) -> None:
    counts = Counter(record.cause for record in evidence.topic(topic).outputs)
    for place in view.keys:
        count = counts[place[1]]
        if count > 1:
            found.twice(view.said(place), f"{count} outputs in {topic}")
        elif view.done(place) and not count:
            found.torn(view.said(place), f"it is done, and there is no output in {topic}")
        elif count and view.dead(place):
            found.torn(view.said(place), f"it is a dead letter, and there is an output in {topic}")


def _moves(evidence: Evidence, view: StageView, found: Findings) -> None:
    """An event, a first failure or an outcome always moves its run, which tells of it; a verdict may come too late."""
    told = {record.cause for record in evidence.topic("runs").records}
    for record in view.inbox.records:
        place = (record.partition, record.event)
        letter = view.letters.get(place)
        moved = view.done(place) or (letter is not None and letter.body.get("step") is not None)
        if moved and record.contract in _MOVING and record.event not in told:
            found.torn(view.said(place), "it is handled, and no transition of its run was caused by it")


def _ids(evidence: Evidence, views: list[StageView], found: Findings) -> None:
    ingested = {topic for view in views if view.stage.role is Role.INGEST for topic in view.stage.each}
    written = {topic for view in views for topic in (*view.stage.outputs, view.stage.dead_letters)}
    if any(view.stage.role is Role.RECOVERY for view in views):  # else anybody may write there
        written |= {view.replays.name for view in views}
    for topic in sorted(written):
        seen: set[tuple[str, str | None, int]] = set()
        for record in evidence.topic(topic).records:
            id_ = record.event if record.replay else record.id  # a replayed record has whatever id the world gave it
            if id_ is None:
                continue
            name = (id_, record.cause if topic in ingested else None, record.replay)
            if name in seen:
                found.twice(f"{topic}/{record.partition}/{record.offset}", f"the id {id_} was there before")
            seen.add(name)


def check_hidden(evidence: Evidence, found: Findings) -> None:
    """Torn: a partition that can't be read to its end, because a transaction is open."""
    for topic in evidence.topics.values():
        for partition in topic.hidden:
            found.torn(f"{topic.name}[{partition}]", "an open transaction hides its end")


def _marks(evidence: Evidence, stage: Stage) -> Counter[tuple[int, bytes]]:
    marks: Counter[tuple[int, bytes]] = Counter()
    for record in evidence.topic(f"{stage.name}.marks").records:
        value = record.value or b""
        for at in range(0, len(value), DIGEST):
            marks[record.partition, value[at : at + DIGEST]] += 1
    return marks


def _newest(evidence: Evidence, topic: str) -> dict[tuple[int, bytes], bytes]:
    rows: dict[tuple[int, bytes], bytes] = {}
    for record in evidence.topic(topic).records:
        if record.value is None:
            rows.pop((record.partition, record.key or b""), None)
        else:
            rows[record.partition, record.key or b""] = record.value
    return rows
