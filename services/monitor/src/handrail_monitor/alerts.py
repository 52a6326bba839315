"""From what is wrong now to what must be told: the same condition is one alert, told once, until it is over. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from handrail_monitor.limits import Limits
from handrail_monitor.rules import CRITICAL, Finding
from handrail_monitor.watched import Watched
from handrail_monitor.words import words

CONTRACT = "handrail/alert.v1"
FIRING, RESOLVED = "FIRING", "RESOLVED"
Judges = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as it stands, by the contract. `since` and `alert` are the episode, `sequence` counts what is told of it."""

    alert: str
    rule: str
    subject: str
    state: str
    severity: str
    since: int
    sequence: int
    what: str
    means: str
    todo: str
    owner: str | None
    runbook: str | None
    flow: str | None
    system: str | None
    to: tuple[str, ...]
    told: tuple[str, ...]
    at: int

    @property
    def notice(self) -> tuple[str, int, int]:
        """Which notice this is: the alert, the episode, and what is told of it."""
        return self.alert, self.since, self.sequence

    def record(self) -> dict[str, Any]:
        """By handrail/alert.v1."""
        return {**asdict(self), "to": list(self.to), "told": list(self.told)}

    @classmethod
    def from_record(cls, body: Mapping[str, Any]) -> Alert:
        """The way back from `record`."""
        known = {one.name: body[one.name] for one in fields(cls)}
        return cls(**{**known, "to": tuple(known["to"]), "told": tuple(known["told"])})


def always(_rule: str, _subject: str) -> bool:
    """Everything is judged."""
    return True


class Board:
    """The alerts that fire. `before`: the newest record of each, from the topic, when monitor starts."""

    def __init__(self, watched: Watched, limits: Limits, now: int, before: Iterable[Alert] = ()) -> None:
        self._watched, self._limits = watched, limits
        self._alerts = {one.alert: one for one in before if one.state == FIRING}
        self._held = dict.fromkeys(self._alerts, now)

    def firing(self) -> list[Alert]:
        return list(self._alerts.values())

    def step(self, findings: Iterable[Finding], now: int, judges: Judges = always) -> list[Alert]:
        """What must be told now. Only what is judged, by rule and subject, can be over: the rest is not seen."""
        tell = []
        for finding in findings:
            name = f"{finding.rule}/{finding.subject}"
            self._held[name] = now
            before = self._alerts.get(name)
            after = self._fired(name, finding, now) if before is None else self._again(before, finding, now)
            if after is not None:
                self._alerts[name] = after
                tell.append(after)
        for name, alert in list(self._alerts.items()):
            if not judges(alert.rule, alert.subject):
                self._held[name] = now
            elif now - self._held[name] >= self._limits.clear_ms:
                del self._alerts[name], self._held[name]
                what = f"It is over. It was: {alert.what}"
                tell.append(replace(alert, state=RESOLVED, sequence=alert.sequence + 1, what=what, told=(), at=now))
        return tell

    def _fired(self, name: str, finding: Finding, now: int) -> Alert:
        means, todo = words(finding.rule, finding.subject)
        return Alert(
            alert=name,
            rule=finding.rule,
            subject=finding.subject,
            state=FIRING,
            severity=finding.severity,
            since=now,
            sequence=1,
            what=finding.what,
            means=means,
            todo=todo,
            owner=self._watched.owner(finding.flow, finding.system),
            runbook=self._watched.runbook(finding.rule, finding.flow),
            flow=finding.flow,
            system=finding.system,
            to=self._watched.to(finding.flow, finding.system),
            told=(),
            at=now,
        )

    def _again(self, before: Alert, finding: Finding, now: int) -> Alert | None:
        """It still holds: told again only when it has become worse, or after a long time."""
        worse = finding.severity == CRITICAL != before.severity
        if not worse and now - before.at < self._limits.remind_ms:
            return None
        severity = CRITICAL if worse else before.severity
        return replace(before, severity=severity, sequence=before.sequence + 1, what=finding.what, told=(), at=now)
