"""Which fault point a service is armed with when it starts: a seeded rotation over all points of all its stages. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from handrail.log import FAULT_POINTS

CALLING = frozenset({"after-intent", "after-call"})
"""Points that only a stage which makes calls has."""
ONCE = frozenset({"during-restore", "in-revoke"})
"""Points that a process passes about once in its life."""

FLOW = "order-to-invoice"
STAGES: Mapping[str, Sequence[str]] = {
    "ingest": (f"{FLOW}.ingest.orders.order-accepted",),
    "transform": (f"{FLOW}.transform",),
    "decision": (f"{FLOW}.decision",),
    "action": ("action.billing",),
    "recovery": ("recovery.commands", "recovery.letters"),
}
"""The stages that each service runs."""

HITS_PER_S: Mapping[str, float] = {"recovery.commands": 0.2, "recovery.letters": 0.5}
"""About how often a stage comes by a point, each second: how the n-th hit is chosen. The other stages: `_BUSY`."""
_BUSY = 4.0


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A fault point of a stage."""

    stage: str
    point: str

    def __str__(self) -> str:
        return f"{self.stage}:{self.point}"


@dataclass(frozen=True, slots=True)
class Arming:
    """What one start is armed with: the n-th hit of a place kills. `turn` counts the armings of that service."""

    place: Place
    nth: int
    turn: int


def places(stages: Iterable[str], points: Sequence[str] = FAULT_POINTS) -> list[Place]:
    """Every fault point that these stages have, in the order of the loop."""
    return [
        Place(stage, point)
        for stage in stages
        for point in points
        if point not in CALLING or stage.startswith("action.")
    ]


class Rotation:
    """The turns of one service: every place once, in a seeded order, then again in another.

    A place that was armed and not hit comes again before those of the next round.
    """

    def __init__(self, service: str, seed: int, life_s: float) -> None:
        """`life_s` is about how long a process is to live between two kills."""
        self._dice = random.Random(f"{seed}/{service}")
        self._places = places(STAGES[service])
        self._life_s = life_s
        self._queue: list[Place] = []
        self._turn = 0

    def next(self, hit: frozenset[Place] | set[Place]) -> Arming:
        """What to arm now, given which places were hit so far in the whole run."""
        if not self._queue:
            self._queue = self._dice.sample(self._places, len(self._places))
            self._queue.sort(key=lambda place: place in hit)  # stable: those that were never hit first
        place = self._queue.pop(0)
        self._turn += 1
        return Arming(place, self._nth(place), self._turn)

    def again(self, place: Place) -> None:
        """It was armed and its process has ended otherwise: a later start gets it."""
        self._queue.insert(min(len(self._queue), 2), place)

    def _nth(self, place: Place) -> int:
        if place.point in ONCE:
            return 1
        most = int(HITS_PER_S.get(place.stage, _BUSY) * self._life_s)
        return self._dice.randint(1, max(1, most))
