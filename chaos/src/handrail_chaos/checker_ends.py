"""Where did each thing that was published end? Pure.

Each name must be in exactly one place: done, rejected, a dead letter, or with a person. What was acknowledged must be in
its topic, and everything that is in a source topic must end, acknowledged or not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from handrail_demo.evidence import expected_runs, newest_letters

from handrail_chaos.checker_words import Findings
from handrail_chaos.evidence import OUTCOME, Evidence, Record, Role

RUNS, STATES, ORDERS = "runs", "recovery.states", "recovery.letters.replay"


class Place(StrEnum):
    """Where a published thing may end."""

    DONE = "done"
    REJECTED = "rejected"
    DEAD_LETTER = "a dead letter"
    PERSON = "with a person"


_RUN_PLACES: Mapping[str, Place] = {
    "done": Place.DONE,
    "rejected": Place.REJECTED,
    "done-by-hand": Place.PERSON,
    "manual": Place.PERSON,
    "waiting": Place.PERSON,
}
_LETTER_PLACES: Mapping[str, Place] = {
    "OPEN": Place.DEAD_LETTER,
    "REPLAYING": Place.DEAD_LETTER,
    "MANUAL": Place.PERSON,
    "DISCARDED": Place.PERSON,
}
"""A resolved letter says nothing: its run does."""

_OUTCOME_PLACES: Mapping[str, Place] = {
    "verified": Place.DONE,
    "accepted": Place.DONE,
    "failed": Place.DEAD_LETTER,
    "unknown": Place.PERSON,
}

_FINAL = frozenset({"done", "rejected", "done-by-hand"})
_TROUBLE = frozenset({"failed", "manual", "waiting"})
_EFFECTS: Mapping[Place, range] = {
    Place.DONE: range(1, 2),
    Place.REJECTED: range(1),
    Place.DEAD_LETTER: range(1),
    Place.PERSON: range(2),
}
"""How many effects each place allows. A person may have made the invoice in billing, or nobody knows."""


class Ends:
    """What was published, what of it is in the source topics, and where each name stands.

    `troubled` are names that ever had a letter, or whose run ever failed or waited for a person.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.sources = tuple(dict.fromkeys(one.topic for one in evidence.published))
        told = {
            f"{one.topic}/{one.partition}/{one.offset}": one.name
            for one in evidence.published
            if one.offset is not None
        }
        self.names: dict[str, str] = {}
        self.present: dict[str, list[Record]] = defaultdict(list)
        for topic in self.sources:
            for record in evidence.topic(topic).records:
                coordinates = f"{topic}/{record.partition}/{record.offset}"
                name = told.get(coordinates) or _identity(record.body) or f"@{coordinates}"
                self.names[coordinates] = name
                self.present[name].append(record)
        self.published = {one.name for one in evidence.published}
        self.runs = expected_runs(self.published, evidence.flow)
        self.transitions: dict[str, list[Record]] = defaultdict(list)
        self.places: dict[str, set[Place]] = defaultdict(set)
        self.told: dict[str, list[str]] = defaultdict(list)
        self.troubled: set[str] = set()
        self._place_runs()
        self._place_copies()
        self._place_outcomes()
        self._place_letters()

    def name_of_run(self, run: str) -> str:
        """The identity that a run is of; its id where nobody knows."""
        return self.runs.get(run, run)

    def _place_runs(self) -> None:
        for record in self.evidence.topic(RUNS).records:
            if record.body is not None and record.body["flow"] == self.evidence.flow:
                self.transitions[record.body["run"]].append(record)
        for run, records in self.transitions.items():
            bodies = [record.body for record in records if record.body is not None]
            newest = max(bodies, key=lambda body: int(body["sequence"]))
            name = _identity(newest["dedupe"]) or self.name_of_run(run)
            self.runs.setdefault(run, name)
            self.told[name].append(f"run {run} is {newest['state']}")
            if newest["state"] in _RUN_PLACES:
                self.places[name].add(_RUN_PLACES[newest["state"]])
            elif newest["state"] == "failed" and newest["event"] == "human-decision":
                self.places[name].add(Place.PERSON)
            if any(body["state"] in _TROUBLE for body in bodies):
                self.troubled.add(name)

    def _place_copies(self) -> None:
        """What a scenario's stage has sent on is done."""
        topics = [topic for stage in self.evidence.stages if stage.role is Role.COPY for topic in stage.each]
        for topic in topics:
            for record in self.evidence.topic(topic).records:
                name = _identity((record.body or {}).get("dedupe"))
                if name is not None:
                    self.places[name].add(Place.DONE)
                    self.told[name].append(f"it is in {topic}")

    def _place_outcomes(self) -> None:
        """Where no decision stage takes part, the outcome of its command is the end of an event."""
        if any(stage.role is Role.DECISION for stage in self.evidence.stages):
            return
        topics = [topic for stage in self.evidence.stages if stage.role is Role.ACTION for topic in stage.each]
        for topic in topics:
            for record in self.evidence.topic(topic).records:
                if record.body is not None and record.contract == OUTCOME:
                    name = self.name_of_run(record.body["run"])
                    self.places[name].add(_OUTCOME_PLACES[record.body["status"]])
                    self.told[name].append(f"its outcome is {record.body['status']}")

    def _letter_states(self) -> list[Mapping[str, Any]]:
        """As recovery tells them; where it takes no part, as the stages themselves tell it of a replay that went through."""
        if any(stage.role is Role.RECOVERY for stage in self.evidence.stages):
            return [record.body for record in self.evidence.topic(STATES).records if record.body is not None]
        orders = [record.body for record in self.evidence.topic(ORDERS).records if record.body is not None]
        return [{**body, "state": "RESOLVED"} for body in orders if body["order"] == "resolved"]

    def _place_letters(self) -> None:
        """A letter at the door is about one record: it is the end of its name only if no copy of it came further."""
        at_the_door = {stage.name for stage in self.evidence.stages if stage.public}
        states = self._letter_states()
        topics = dict.fromkeys(stage.dead_letters for stage in self.evidence.stages)
        letters = [
            (record.key, record.body)
            for topic in topics
            for record in self.evidence.topic(topic).records
            if record.body is not None and "payload_hash" in record.body
        ]
        stages = {body["letter"]: body["stage"] for _, body in letters}
        places: list[tuple[bool, str, Place]] = []
        for letter in newest_letters(letters, states):
            name = self.names.get(letter.coordinates) or self.runs.get(letter.run or "")
            if name is None:
                continue
            self.troubled.add(name)
            self.told[name].append(f"the letter {letter.letter} of {stages[letter.letter]} is {letter.state}")
            if letter.state in _LETTER_PLACES:
                places.append((stages[letter.letter] in at_the_door, name, _LETTER_PLACES[letter.state]))
        for door, name, place in sorted(places):
            if not (door and self.places.get(name)):
                self.places[name].add(place)

    # --- rules

    def check(self, found: Findings) -> None:
        """Lost, twice or torn, for each name and each run."""
        self._acknowledged(found)
        effects = self._effects()
        for name in sorted(self.present):
            self._ended(name, None if effects is None else effects[name], found)
        self._strays(effects, found)
        for run, records in self.transitions.items():
            self._sequence(run, records, found)
        self._results(found)
        for stage in self.evidence.stages:
            if stage.role is Role.COPY:
                for topic in stage.each:
                    self._counts(topic, found)

    def _acknowledged(self, found: Findings) -> None:
        """What Kafka acknowledged, it keeps."""
        for one in self.evidence.published:
            if one.acknowledged and f"{one.topic}/{one.partition}/{one.offset}" not in self.names:
                found.lost(one.name, f"{one.topic}/{one.partition}/{one.offset} was acknowledged, and it is not there")

    def _effects(self) -> Counter[str] | None:
        if self.evidence.effects is None:
            return None
        return Counter(effect.reference for effect in self.evidence.effects if effect.kind == "invoice")

    def _ended(self, name: str, effects: int | None, found: Findings) -> None:
        places = self.places.get(name, set())
        told = "; ".join(self.told.get(name, ["no run, no letter"]))
        if effects is not None and effects > 1:
            found.twice(name, f"{effects} effects in the books; {told}")
        if len(places) > 1:
            found.twice(name, f"in two places, {' and '.join(sorted(places))}; {told}")
        elif not places:
            found.lost(name, f"it ended nowhere, {effects or 0} effects in the books; {told}")
        elif effects == 0 and 0 not in _EFFECTS[min(places)]:
            found.lost(name, f"{min(places)}, and no effect in the books; {told}")
        elif effects == 1 and 1 not in _EFFECTS[min(places)]:
            found.torn(name, f"{min(places)}, and there is an effect in the books; {told}")

    def _strays(self, effects: Counter[str] | None, found: Findings) -> None:
        """What ended or had an effect without being in a source topic."""
        ended = {name for name, places in self.places.items() if places & {Place.DONE, Place.REJECTED, Place.PERSON}}
        for name in sorted((ended | set(effects or ())) - set(self.present)):
            found.twice(name, f"it was done, and nobody published it; {'; '.join(self.told.get(name, []))}")

    def _sequence(self, run: str, records: Iterable[Record], found: Findings) -> None:
        """A run's transitions are 1, 2, 3 ... in log order, each from the state before; one end."""
        name = f"{self.name_of_run(run)} (run {run})"
        bodies = [record.body for record in records if record.body is not None]
        _numbered(name, [int(body["sequence"]) for body in bodies], found)
        ends = [body["state"] for body in bodies if body["state"] in _FINAL]
        if len(ends) > 1:
            found.twice(name, f"it ended {len(ends)} times: {', '.join(ends)}")
        state: str | None = None
        for body in bodies:
            if body["previous"] != state:
                found.torn(name, f"transition {body['sequence']} comes from {body['previous']}, and it was {state}")
            state = body["state"]

    def _counts(self, topic: str, found: Findings) -> None:
        """A scenario's stage numbers what it sends for a key by a row of its table."""
        numbers: dict[str, list[int]] = defaultdict(list)
        for record in self.evidence.topic(topic).records:
            if record.body is not None and "sequence" in record.body:
                numbers[(record.key or b"").decode()].append(int(record.body["sequence"]))
        for key, found_numbers in numbers.items():
            _numbered(f"{topic} {key}", found_numbers, found)

    def _results(self, found: Findings) -> None:
        """Each run that is done has one result on `<flow>.done`, and each result its run."""
        topic = f"{self.evidence.flow}.done"
        if topic not in self.evidence.topics:
            return
        results = Counter(_identity(record.body) or "?" for record in self.evidence.topic(topic).records)
        done = {
            self.name_of_run(run)
            for run, records in self.transitions.items()
            if any((record.body or {}).get("state") in ("done", "done-by-hand") for record in records)
        }
        for name in sorted(done | set(results)):
            if results[name] > 1:
                found.twice(name, f"{results[name]} results in {topic}")
            elif name not in done:
                found.torn(name, f"there is a result in {topic}, and no run of it is done")
            elif not results[name]:
                found.torn(name, f"its run is done, and there is no result in {topic}")


def _numbered(name: str, numbers: list[int], found: Findings) -> None:
    """Torn: a hole or a repetition. Order: all there, but not in their order."""
    if numbers == list(range(1, len(numbers) + 1)):
        return
    if sorted(numbers) == list(range(1, len(numbers) + 1)):
        found.order(name, f"its numbers come as {_shown(numbers)}")
    else:
        found.torn(name, f"its numbers are {_shown(numbers)}: holes or repetitions")


def _shown(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:20])) + (" ..." if len(numbers) > 20 else "")


def _identity(fields: Mapping[str, Any] | None) -> str | None:
    if not fields or not fields.get("order_id") or not fields.get("revision"):
        return None
    return f"{fields['order_id']}/{fields['revision']}"
