"""The storm as data: what is broken when, a pure function of the seed.

Time is cut into slices of about 15 s, or of what was asked for. Each slice gets two to four faults from a shuffled deck of
all kinds, so that every kind has its turn before one comes again. A fault is a few steps: what to do to whom, at which
second of the storm.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

SLICE_S = 15.0
"""About how long a slice is, unless something else is asked for: give or take a third."""
FAULTS_PER_SLICE = (2, 4)
ZOMBIE_S = (17.0, 21.0)
"""Longer than the session timeout and the transaction timeout, which are 15 s."""
SERVICES = ("ingest", "transform", "decision", "action", "recovery")
CONSOLE, SANDBOX, BILLING = "console", "sandbox", "billing"

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Step:
    """Do `verb` to `target` at second `at` of the storm. `fault` is the kind of fault that it is part of."""

    at: float
    verb: str
    target: str
    fault: str
    given: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    def __str__(self) -> str:
        given = " ".join(f"{name}={value}" for name, value in self.given.items())
        return f"{self.at:7.1f} s  {self.fault:<16} {self.verb:<10} {self.target:<12} {given}".rstrip()


@dataclass(frozen=True, slots=True)
class Slice:
    """A stretch of the storm and the kinds of faults in it."""

    start: float
    end: float
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole storm. `steps` are in the order of time."""

    seed: int
    seconds: float
    slices: tuple[Slice, ...]
    steps: tuple[Step, ...]

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"seed {self.seed}: a storm of {self.seconds:.0f} s in {len(self.slices)} slices"
        for one in self.slices:
            yield f"{one.start:7.1f} s  until {one.end:.1f} s: {', '.join(one.faults)}"
        yield ""
        yield from map(str, self.steps)


@dataclass(frozen=True, slots=True)
class Ground:
    """What there is to break."""

    seconds: float
    brokers: int = 1
    network: bool = True
    slice_s: float = SLICE_S


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a fault goes: the slice, and the dice."""

    dice: random.Random
    start: float
    end: float
    ground: Ground

    def when(self, lasting: float = 0.0) -> float:
        return self.dice.uniform(self.start, max(self.start, self.end - lasting))

    def service(self) -> str:
        return self.dice.choice(SERVICES)

    def broker(self) -> str:
        return f"kafka-{self.dice.randint(1, self.ground.brokers)}"


Make = Callable[[_Place, str], list[Step]]


def _kill(place: _Place, name: str) -> list[Step]:
    return [Step(place.when(), "kill", place.service(), name) for _ in range(2)]


def _kill_console(place: _Place, name: str) -> list[Step]:
    return [Step(place.when(), "kill", CONSOLE, name)]


def _pause(place: _Place, name: str) -> list[Step]:
    return _while(place, name, place.service(), place.dice.uniform(1.0, 5.0), "stop", "go")


def _zombie(place: _Place, name: str) -> list[Step]:
    """Stopped until it is taken for dead and another has its partitions; then it goes on with what it had in hand."""
    service, lasting = place.service(), place.dice.uniform(*ZOMBIE_S)
    at = max(0.0, min(place.when(), place.ground.seconds - lasting - 2.0))
    return [
        Step(at, "join", service, name),
        Step(at + 1.0, "stop", service, name),
        Step(at + 1.0 + lasting, "go", service, name),
        Step(at + 4.0 + lasting, "leave", service, name, {"how": "kill"}),
    ]


def _storm(place: _Place, name: str) -> list[Step]:
    """A second member comes and goes: of every service at once, because each departure costs a session timeout."""
    steps = []
    for service in SERVICES:
        at, lasting = place.when(8.0), place.dice.uniform(3.0, 8.0)
        how = place.dice.choice(("kill", "end"))
        steps += [Step(at, "join", service, name), Step(at + lasting, "leave", service, name, {"how": how})]
    return steps


def _restart(place: _Place, name: str) -> list[Step]:
    """A rolling restart: each is asked to end, and lets its partitions go."""
    return [Step(place.when(), "end", service, name) for service in SERVICES]


def _forget(place: _Place, name: str) -> list[Step]:
    return [Step(place.when(), "forget", place.service(), name)]


def _cut(place: _Place, name: str) -> list[Step]:
    return _while(place, name, place.broker(), place.dice.uniform(0.5, 5.0), "cut", "mend")


def _toxic(toxic: str, low: float, high: float, attributes: Callable[[random.Random], dict[str, Any]]) -> Make:
    def make(place: _Place, name: str) -> list[Step]:
        given = {
            "toxic": toxic,
            "stream": place.dice.choice(("upstream", "downstream")),
            "attributes": attributes(place.dice),
        }
        target = SANDBOX if name.startswith("sandbox") else place.broker()
        return _while(place, name, target, place.dice.uniform(low, high), "toxic", "antidote", given)

    return make


def _kill_broker(place: _Place, name: str) -> list[Step]:
    return _while(place, name, place.broker(), place.dice.uniform(0.2, 4.0), "broker-kill", "broker-start")


def _stop_broker(place: _Place, name: str) -> list[Step]:
    longest = 8.0 if place.ground.brokers == 1 else 18.0
    return _while(place, name, place.broker(), place.dice.uniform(2.0, longest), "broker-stop", "broker-go")


def _misbehave(kind: str, **more: Any) -> Make:
    def make(place: _Place, name: str) -> list[Step]:
        rule = {
            "kind": kind,
            "share": round(place.dice.uniform(0.1, 0.5), 2),
            "seed": place.dice.randrange(1_000),
            **more,
        }
        return _while(place, name, BILLING, place.dice.uniform(4.0, 9.0), "misbehave", "behave", {"rule": rule})

    return make


def _kill_sandbox(place: _Place, name: str) -> list[Step]:
    return _while(place, name, SANDBOX, place.dice.uniform(0.5, 5.0), "down", "up")


def _poison(place: _Place, name: str) -> list[Step]:
    return _while(place, name, "input", place.dice.uniform(3.0, 8.0), "poison", "pure")


def _while(
    place: _Place, name: str, target: str, lasting: float, begin: str, end: str, given: Mapping[str, Any] = _NOTHING
) -> list[Step]:
    at = place.when(lasting)
    return [Step(at, begin, target, name, given), Step(at + lasting, end, target, name, given)]


NETWORK: Mapping[str, Make] = {
    "net-cut": _cut,
    "net-latency": _toxic(
        "latency", 3, 9, lambda dice: {"latency": dice.randint(100, 500), "jitter": dice.randint(0, 200)}
    ),
    "net-slow-close": _toxic("slow_close", 5, 10, lambda dice: {"delay": dice.randint(500, 3_000)}),
    "net-bandwidth": _toxic("bandwidth", 3, 8, lambda dice: {"rate": dice.randint(20, 200)}),
    "net-reset": _toxic("reset_peer", 0.5, 3, lambda dice: {"timeout": dice.randint(0, 500)}),
    "net-blackhole": _toxic("timeout", 1, 6, lambda _dice: {"timeout": 0}),
    "net-slicer": _toxic("slicer", 3, 8, lambda _dice: {"average_size": 200, "size_variation": 100, "delay": 200}),
    "sandbox-latency": _toxic("latency", 3, 8, lambda dice: {"latency": dice.randint(300, 1_400), "jitter": 200}),
    "sandbox-reset": _toxic("reset_peer", 1, 4, lambda dice: {"timeout": dice.randint(0, 100)}),
    "sandbox-blackhole": _toxic("timeout", 1, 5, lambda _dice: {"timeout": 0}),
}
"""Kinds that need Toxiproxy."""

KINDS: Mapping[str, Make] = {
    "service-kill": _kill,
    "console-kill": _kill_console,
    "service-pause": _pause,
    "zombie": _zombie,
    "rebalance-storm": _storm,
    "rolling-restart": _restart,
    "lost-state": _forget,
    "broker-kill": _kill_broker,
    "broker-stop": _stop_broker,
    "sandbox-500": _misbehave("500"),
    "sandbox-503": _misbehave("503"),
    "sandbox-429": _misbehave("429", retry_after_s=1),
    "sandbox-hang": _misbehave("hang", delay_ms=4_000),
    "sandbox-lost-reply": _misbehave("apply-then-lose-reply"),
    "sandbox-nothing": _misbehave("success-but-nothing"),
    "sandbox-slow": _misbehave("slow", delay_ms=1_500),
    "sandbox-dead": _kill_sandbox,
    "poison": _poison,
    **NETWORK,
}
"""The catalogue: every kind of fault, and how its steps are made."""


def plan(seed: int, ground: Ground) -> Plan:
    """The storm of this seed on this ground."""
    dice = random.Random(f"{seed}/schedule")
    kinds = [name for name in KINDS if ground.network or name not in NETWORK]
    slices: list[Slice] = []
    steps: list[Step] = []
    deck: list[str] = []
    start = 0.0
    while start < ground.seconds:
        end = min(start + dice.uniform(ground.slice_s * 2 / 3, ground.slice_s * 4 / 3), ground.seconds)
        wanted = dice.randint(*FAULTS_PER_SLICE)
        if len(deck) < wanted:
            deck += dice.sample(kinds, len(kinds))
        chosen, deck = _distinct(deck, wanted)
        place = _Place(dice, start, end, ground)
        for name in chosen:
            steps += [step for step in KINDS[name](place, name) if step.at <= ground.seconds or step.verb in _ENDS]
        slices.append(Slice(start, end, tuple(chosen)))
        start = end
    return Plan(seed, ground.seconds, tuple(slices), tuple(sorted(steps, key=lambda step: step.at)))


_ENDS = frozenset({"go", "leave", "mend", "antidote", "broker-start", "broker-go", "behave", "up", "pure"})
"""Verbs that end a fault: they are never left out."""


def _distinct(deck: Sequence[str], wanted: int) -> tuple[list[str], list[str]]:
    """The first `wanted` different ones, and what is left."""
    chosen: list[str] = []
    left: list[str] = []
    for name in deck:
        if len(chosen) < wanted and name not in chosen:
            chosen.append(name)
        else:
            left.append(name)
    return chosen, left
