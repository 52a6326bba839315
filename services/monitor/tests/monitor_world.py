"""What the tests of monitor share: a flow to watch, and facts made short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from handrail.flow.model import Expect
from handrail_monitor.alerts import Alert
from handrail_monitor.facts import Letter, Told
from handrail_monitor.limits import Limits
from handrail_monitor.memory import Memory
from handrail_monitor.rules import Finding, Sight, horizon_ms, judge
from handrail_monitor.watched import FlowWatch, Watched

T0 = 1_763_700_000_000
INGEST, TRANSFORM, DECISION = "sales.ingest.orders.accepted", "sales.transform", "sales.decision"
ACTION, LETTERS = "action.billing", "recovery.letters"
SERVICES = {INGEST: "ingest", TRANSFORM: "transform", DECISION: "decision", ACTION: "action", LETTERS: "recovery"}
FLOW = FlowWatch(
    "sales", "ops@example.com", "flows/sales/v1/runbook.md", (INGEST, TRANSFORM, DECISION), (INGEST,), ("billing",)
)
WATCHED = Watched({"sales": FLOW}, SERVICES, link="https://example.com/")


def watched(**changed: Any) -> Watched:
    return replace(WATCHED, flows={"sales": replace(FLOW, **changed)})


def expect(at_least: int, per: str, hours: str | None = None) -> Expect:
    return Expect.model_validate({"at_least": at_least, "per": per, "hours": hours})


class World:
    """A monitor's memory over seconds: each `second` every stage speaks, with what was counted in it."""

    def __init__(self, watched: Watched = WATCHED, limits: Limits | None = None) -> None:
        self.now = T0
        self.watched, self.limits = watched, limits or Limits()
        self.memory = Memory(horizon_ms(self.watched, self.limits))
        self.counters: dict[str, dict[str, int]] = {}
        self.gauges: dict[str, dict[str, int]] = {}
        self.mute: set[str] = set()
        self.instance = dict.fromkeys(SERVICES, 0)
        self.started = dict.fromkeys(SERVICES, T0)
        self.second({})

    def second(self, counted: Mapping[str, Mapping[str, int]], ms: int = 1_000) -> None:
        """`counted`: stage -> what it counted in this second."""
        self.now += ms
        for stage in SERVICES:
            mine = self.counters.setdefault(stage, {})
            for name, number in counted.get(stage, {}).items():
                mine[name] = mine.get(name, 0) + number
            if stage not in self.mute:
                self.memory.hear([self.told(stage)])
        self.memory.forget(self.now)

    def seconds(self, count: int, counted: Mapping[str, Mapping[str, int]] | None = None) -> None:
        for _ in range(count):
            self.second(counted or {})

    def restart(self, stage: str) -> None:
        self.instance[stage] += 1
        self.started[stage] = self.now
        self.counters[stage] = {}

    def told(self, stage: str) -> Told:
        instance = f"{stage}-{self.instance[stage]}"
        counters, gauges = dict(self.counters[stage]), dict(self.gauges.get(stage, {}))
        return Told(SERVICES[stage], instance, self.started[stage], stage, (), counters, gauges, self.now)

    def sight(self) -> Sight:
        return Sight(self.memory, self.watched, self.limits, self.now, T0)

    def findings(self) -> dict[str, Finding]:
        found = judge(self.sight())
        names = [f"{one.rule}/{one.subject}" for one in found]
        assert len(set(names)) == len(names), f"one condition found twice: {names}"
        return dict(zip(names, found, strict=True))


def letter(name: str, at: int, **changed: Any) -> Letter:
    return replace(Letter(name, 1, TRANSFORM, "sales", "contract", True, at), **changed)


def alert(**changed: Any) -> Alert:
    fields: dict[str, Any] = {
        "alert": "calls-failing/billing",
        "rule": "calls-failing",
        "subject": "billing",
        "state": "FIRING",
        "severity": "CRITICAL",
        "since": T0,
        "sequence": 1,
        "what": "12 calls to <billing> & co failed.",
        "means": "Runs wait.",
        "todo": "See whether billing is up.",
        "owner": "ops@example.com",
        "runbook": "docs/operations/alerts.md#calls-failing",
        "flow": None,
        "system": "billing",
        "to": (),
        "told": (),
        "at": T0,
    }
    return Alert(**{**fields, **changed})
