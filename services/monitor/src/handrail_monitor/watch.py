"""The watch: once a second all that was heard is judged, and what is new is recorded and told. No Kafka in here.

It proves that it sees by hearing itself: its own words come back through Kafka (`process-stats` of the service monitor).
While they do not, it says so, and judges nothing else: an alert must not end because nobody looks. Only while it still reads
what was said before, which takes its time where a flow's `expect` looks back for hours, is that no fault of Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import structlog
from handrail.clock import Clock
from handrail.vitals import Vitals

from handrail_monitor.alerts import FIRING, Alert, Board
from handrail_monitor.facts import Fact, Told
from handrail_monitor.hearing import Heard
from handrail_monitor.limits import Limits
from handrail_monitor.memory import Memory
from handrail_monitor.rules import CRITICAL, KAFKA_AWAY, Finding, Sight, horizon_ms, judge
from handrail_monitor.times import span
from handrail_monitor.watched import Watched

SERVICE = "monitor"
SETTLE_MS = 3_000
"""After it hears itself it waits so long for the other partitions before it judges."""
LOOKS_MS = 5_000
"""Its own last words may be so old when it judges: what it knows of the others is as old. Later its sight has a break."""
BLIND_MS = 20_000
AGAIN_MS = 60_000
TELL_AGAIN_MS = 3_600_000


def _is_kafka_away(rule: str, _subject: str) -> bool:
    return rule == KAFKA_AWAY


def _never(_rule: str, _subject: str) -> bool:
    return False


class Watch:
    """One thread uses it, but for `vitals`. `record` and `tell` are called with each alert that has changed."""

    def __init__(
        self,
        watched: Watched,
        limits: Limits,
        clock: Clock,
        instance: str,
        record: Callable[[Alert], None],
        tell: Callable[[Alert], None],
    ) -> None:
        self._watched, self._limits, self._clock, self._instance = watched, limits, clock, instance
        self._record, self._tell = record, tell
        self._began = clock.now()
        self._memory = Memory(horizon_ms(watched, limits))
        self._board = Board(watched, limits, self._began)
        self._restored = False
        self._sees_since: int | None = None
        self._heard_itself = self._heard_old = self._heard = self._begun_anew = self._began
        self._newest: dict[str, Alert] = {}
        self._vitals = Vitals(SERVICE)
        self._ticked = self._began
        self._log = structlog.get_logger().bind(service=SERVICE)

    @property
    def vitals(self) -> list[Vitals]:
        """How it is; nothing when it has not looked for a while. Any thread may ask."""
        return [self._vitals] if self._clock.now() - self._ticked < BLIND_MS else []

    def stats_from(self) -> int:
        """From when on `stats` is of interest."""
        return self._clock.now() - horizon_ms(self._watched, self._limits)

    # --- what comes in

    def restore(self, said: Iterable[Heard]) -> None:
        """All that the topics of states hold. The alerts among it are one's own, the first time only.

        The feed begins here, or begins anew: what it heard before is no sight without a break.
        """
        self._sees_since = None
        self._memory.hear_again()
        self._heard = self._clock.now()
        alerts: dict[str, Alert] = {}
        for one in said:
            if isinstance(one, Alert):
                alerts[one.alert] = one
            else:
                self._learn(one)
        if self._restored:
            return
        self._restored = True
        now = self._clock.now()
        before = {name: one for name, one in alerts.items() if name not in self._newest}
        self._go_on(before.values())
        self._board = Board(self._watched, self._limits, now, [*before.values(), *self._board.firing()])
        for alert in before.values():
            self._newest[alert.alert] = alert
            if now - alert.at < TELL_AGAIN_MS:  # whoever was not told before monitor ended
                self._tell(alert)

    def hear(self, said: Heard | None) -> None:
        """What a record says of a topic that Faust reads; None: a record came, and no rule needs it."""
        self._heard = self._clock.now()
        if said is not None and not isinstance(said, Alert):
            self._learn(said)

    def busy(self) -> None:
        """The feed hears nothing and that is not Kafka's fault: it reads what was said before, or another monitor watches."""
        self._heard = self._heard_old = self._clock.now()

    def _learn(self, fact: Fact) -> None:
        if isinstance(fact, Told):
            now = self._clock.now()
            if now - fact.at > BLIND_MS:
                self._heard_old = now
            if fact.service == SERVICE:
                if fact.instance == self._instance and now - fact.at <= LOOKS_MS:  # what is read again is older
                    self._heard_itself = now
                    self._sees_since = self._sees_since or now
                return
        self._memory.hear([fact])

    def told(self, alert: Alert, notifier: str) -> None:
        """A notifier is through with a notice; noted, so that it is not told again after a restart."""
        newest = self._newest.get(alert.alert)
        if newest is None or newest.notice != alert.notice or notifier in newest.told:
            return
        self._keep(replace(newest, told=(*newest.told, notifier)))

    # --- once a second

    def tick(self) -> bool:
        """Judge and tell. False when it has heard nothing for so long that the feed should begin anew."""
        now = self._clock.now()
        self._after_a_pause(now)
        self._ticked = now
        if now - self._heard_itself > LOOKS_MS:
            self._sees_since = None
        since = self._sees_since
        blind = now - max(self._heard_itself, self._heard_old)
        if blind > BLIND_MS:
            if now - self._heard > BLIND_MS:
                what = (
                    f"Kafka has given monitor nothing for {span(now - self._heard)}: not even its own words come back."
                )
            else:
                what = f"Monitor hears others, but its own words have not come back for {span(blind)}."
            self._step(self._board.step([Finding(KAFKA_AWAY, "kafka", CRITICAL, what)], now, _is_kafka_away))
        elif since is None or now - since < SETTLE_MS:
            self._board.step([], now, _never)
        else:
            self._memory.forget(now)
            sight = Sight(self._memory, self._watched, self._limits, now, since)
            self._step(self._board.step(judge(sight), now, sight.judges))
        self._vitals = self._now(now, blind)
        if blind <= AGAIN_MS or now - self._begun_anew <= AGAIN_MS:
            return True
        self._begun_anew = now
        return False

    def _after_a_pause(self, now: int) -> None:
        """When it did not look for a while (it was stopped, or the clock was set) that is no silence of anybody else.

        Where the clock went back, what the stages said lies in the future: it is forgotten, they speak again soon.
        """
        gap = now - self._ticked
        if 0 <= gap <= LOOKS_MS:
            return
        self._log.warning("did not look", gap_ms=gap)
        self._sees_since = None
        self._heard_itself = self._heard_old = self._heard = self._begun_anew = now
        if gap < 0:
            self._memory.stages.clear()
            self._go_on(self._board.firing())

    def _go_on(self, alerts: Iterable[Alert]) -> None:
        """What is not counted again, as it was counted by a monitor before this one, or before the clock was set."""
        for alert in alerts:
            there = alert.subject in self._watched.flows or f"action.{alert.subject}" in self._watched.expected
            if there and alert.state == FIRING and alert.severity == CRITICAL:  # warnings are of shares: counted again
                self._memory.go_on(alert.rule, alert.subject, min(alert.since, self._clock.now()))

    def _step(self, alerts: list[Alert]) -> None:
        for alert in alerts:
            self._keep(alert)
            self._tell(alert)

    def _keep(self, alert: Alert) -> None:
        self._newest[alert.alert] = alert
        self._record(alert)

    def _now(self, now: int, blind: int) -> Vitals:
        firing = self._board.firing()
        counters = {"firing": len(firing), "firing.critical": sum(one.severity == CRITICAL for one in firing)}
        sees = self._sees_since is not None and now - self._sees_since >= SETTLE_MS
        return Vitals(SERVICE, "idle" if sees else "restore", (0,), behind=blind if not sees else 0, counters=counters)
