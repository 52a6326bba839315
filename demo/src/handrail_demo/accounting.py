"""Where did each thing that was published end? Set algebra over what outsiders can see; pure.

Each distinct name must be in exactly one place: done with exactly one invoice in billing's own books, rejected or a dead
letter without one, or done by a person. Nothing here asks our ledger.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from handrail_demo.manifest import Entry


class Place(StrEnum):
    """Where a published thing may end."""

    DONE = "done"
    REJECTED = "rejected"
    DEAD_LETTERS = "dead_letters"
    BY_HAND = "by_hand"


@dataclass(frozen=True, slots=True)
class RunSeen:
    """A run's newest transition. `identity` is from its dedupe fields, None when it has others."""

    run: str
    identity: str | None
    state: str


@dataclass(frozen=True, slots=True)
class LetterSeen:
    """A dead letter and its newest state. `coordinates` is where its message stood, `<topic>/<partition>/<offset>`."""

    letter: str
    state: str
    coordinates: str
    run: str | None


@dataclass(frozen=True, slots=True)
class Wrong:
    """Why one name is not accounted for."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Accounts:
    """The result. `wrong` explains each that is lost or twice, in the order of names."""

    published: int
    distinct: int
    done: int
    rejected: int
    dead_letters: int
    by_hand: int
    lost: int
    twice: int
    wrong: tuple[Wrong, ...]

    @property
    def holds(self) -> bool:
        """Whether each distinct name is in exactly one place, and there was something to account for."""
        placed = self.done + self.rejected + self.dead_letters + self.by_hand
        return self.distinct > 0 and self.distinct == placed and self.lost == self.twice == 0

    def line(self) -> str:
        """The demo's last line."""
        return (
            f"ACCOUNTED published={self.published} distinct={self.distinct} done={self.done} "
            f"rejected={self.rejected} dead_letters={self.dead_letters} by_hand={self.by_hand} "
            f"lost={self.lost} twice={self.twice}"
        )


_RUN_PLACES: Mapping[str, Place] = {
    "done": Place.DONE,
    "rejected": Place.REJECTED,
    "done-by-hand": Place.BY_HAND,
}

_LETTER_PLACES: Mapping[str, Place] = {
    "OPEN": Place.DEAD_LETTERS,
    "REPLAYING": Place.DEAD_LETTERS,
    "MANUAL": Place.BY_HAND,
    "DISCARDED": Place.BY_HAND,
}
"""A resolved letter says nothing: its run does. A person who discards one, or takes it over, has decided by hand."""

_EFFECTS: Mapping[Place, range] = {
    Place.DONE: range(1, 2),
    Place.REJECTED: range(1),
    Place.DEAD_LETTERS: range(1),
    Place.BY_HAND: range(2),
}
"""How many effects each place allows. A person may have made the invoice in billing, or settled it without."""


class _Evidence:
    """All that is known of each name."""

    def __init__(self) -> None:
        self.places: dict[str, set[Place]] = defaultdict(set)
        self.states: dict[str, list[str]] = defaultdict(list)

    def add_runs(self, runs: Iterable[RunSeen]) -> None:
        for run in runs:
            if run.identity is None:
                continue
            self.states[run.identity].append(f"run {run.run} is {run.state}")
            if run.state in _RUN_PLACES:
                self.places[run.identity].add(_RUN_PLACES[run.state])

    def add_letters(self, letters: Iterable[LetterSeen], names: Mapping[str, str]) -> None:
        """`names` gives the name of a record by its coordinates, and of a run by its id."""
        for letter in letters:
            name = names.get(letter.coordinates) or names.get(letter.run or "")
            if name is None:
                continue
            self.states[name].append(f"letter {letter.letter} is {letter.state}")
            if letter.state in _LETTER_PLACES:
                self.places[name].add(_LETTER_PLACES[letter.state])


def account(
    entries: Sequence[Entry],
    effects: Mapping[str, int],
    runs: Sequence[RunSeen],
    letters: Sequence[LetterSeen],
    *,
    by_hand: Iterable[str] = (),
    run_names: Mapping[str, str] | None = None,
) -> Accounts:
    """Say where each distinct name of the manifest has ended.

    `effects` counts the effects in the outside system's own books by reference (= identity). `by_hand` are identities
    that a person settled outside of any run. `run_names` gives the identity of runs that may have no transition yet
    (handrail_demo.evidence.expected_runs).

    A name is lost when it is in no place, or its effects are not those of its place (done without an effect is silent
    success). It is twice when it has more than one effect or is in two places, and so is an effect or a finished run that
    nobody published.
    """
    named = {entry.name for entry in entries}
    names = {**(run_names or {}), **{run.run: run.identity for run in runs if run.identity is not None}}
    names.update({entry.coordinates: entry.name for entry in entries})
    evidence = _Evidence()
    evidence.add_runs(runs)
    evidence.add_letters(letters, names)
    for identity in by_hand:
        evidence.places[identity].add(Place.BY_HAND)
        evidence.states[identity].append("a person settled it")

    counts = dict.fromkeys(Place, 0)
    lost: list[Wrong] = []
    twice = _strays(named, effects, runs)
    for name in sorted(named):
        places, found = evidence.places.get(name, set()), effects.get(name, 0)
        told = "; ".join(evidence.states.get(name, ["no run and no letter"]))
        if found > 1:
            twice.append(Wrong(name, f"{found} effects in the books; {told}"))
        elif len(places) > 1:
            twice.append(Wrong(name, f"in two places, {' and '.join(sorted(places))}; {told}"))
        elif not places:
            lost.append(Wrong(name, f"ended nowhere, {found} effects in the books; {told}"))
        else:
            (place,) = places
            if found in _EFFECTS[place]:
                counts[place] += 1
            else:
                lost.append(Wrong(name, f"{place} with {found} effects in the books; {told}"))
    return Accounts(
        published=len(entries),
        distinct=len(named),
        done=counts[Place.DONE],
        rejected=counts[Place.REJECTED],
        dead_letters=counts[Place.DEAD_LETTERS],
        by_hand=counts[Place.BY_HAND],
        lost=len(lost),
        twice=len(twice),
        wrong=tuple(sorted([*lost, *twice], key=lambda one: one.name)),
    )


def _strays(named: set[str], effects: Mapping[str, int], runs: Iterable[RunSeen]) -> list[Wrong]:
    """Effects and finished runs that no publication asked for, one each per identity."""
    strays = {
        reference: Wrong(reference, f"{count} effects in the books, but it was never published")
        for reference, count in effects.items()
        if count and reference not in named
    }
    for run in runs:
        if run.identity is not None and run.identity not in named and run.state in _RUN_PLACES:
            strays.setdefault(
                run.identity, Wrong(run.identity, f"run {run.run} is {run.state}, but it was never published")
            )
    return list(strays.values())
