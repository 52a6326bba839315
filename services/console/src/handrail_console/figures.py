"""What console says of itself: `/ready` in words, `/metrics` in numbers, and to monitor by the topic `stats`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from handrail.clock import Clock
from handrail.vitals import Vitals
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from handrail_console.backlog import Backlog
from handrail_console.database import LedgerAway
from handrail_console.follower import Seen

SERVICE = "console"
STUCK_MS = 30_000
"""It looks several times a second. A batch takes seconds at most, and Kafka being away is said within 16 s."""


def vitals(seen: Seen, now: int) -> Vitals:
    """Ready once it has looked, and while it looks; how much is to come is told, and no reason to restart it.

    `now` in ms since the epoch. What it waits for when it is stuck (its database, mostly) it can't say: nothing came back.
    """
    lag, counters = {0: sum(seen.lag.values())}, {"consumed": seen.written}
    if seen.away is not None:
        known = isinstance(seen.away, LedgerAway)  # while Kafka is away nobody knows how much is to come
        return Vitals(SERVICE, "away", lag=lag if known else {}, counters=counters, troubles=(str(seen.away),))
    if seen.at is None:
        return Vitals(SERVICE, "new")
    silent = now - seen.at * 1000
    if silent <= STUCK_MS:
        return Vitals(SERVICE, "follow", lag=lag, counters=counters)
    since = f"has not looked at the topics since {datetime.fromtimestamp(seen.at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    stuck = f"{since} ({silent / 1000:.0f} s): does the disk or the database of the ledger answer?"
    return Vitals(SERVICE, "stuck", lag=lag, counters=counters, troubles=(stuck,))


def registry(seen: Callable[[], Seen], clock: Clock) -> CollectorRegistry:
    """A registry of its own."""
    made = CollectorRegistry()
    made.register(_Ledger(seen, clock))
    return made


class _Ledger(Collector):
    def __init__(self, seen: Callable[[], Seen], clock: Clock) -> None:
        self._seen = seen
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        seen, now = self._seen(), self._clock.now()
        ready = GaugeMetricFamily(
            "handrail_ready", "1 when it follows the topics, 0 while it does not.", labels=["stage"]
        )
        ready.add_metric([SERVICE], 0.0 if vitals(seen, now).reasons() else 1.0)
        yield ready
        lag = GaugeMetricFamily("handrail_ledger_lag_records", "Records that the ledger lacks.", labels=["topic"])
        for topic, records in seen.lag.items():
            lag.add_metric([topic], records)
        yield lag
        if seen.at is not None:
            yield GaugeMetricFamily(
                "handrail_ledger_looked_timestamp_seconds", "When console last looked at the topics.", value=seen.at
            )
        if seen.backlog is not None:
            yield from _open(seen.backlog, now)


def _open(backlog: Backlog, now: int) -> Iterator[Metric]:
    letters = GaugeMetricFamily(
        "handrail_dead_letters_open", "Dead letters that wait for a person.", labels=["flow", "class"]
    )
    for (flow, failure_class), count in backlog.letters.items():
        letters.add_metric([flow, failure_class], count)
    yield letters
    # An age, no timestamp: 0 says that none is open, where a timestamp would be 1970 or missing. It is made when somebody
    # asks, so it is never stale: it grows also while the ledger stands.
    oldest = GaugeMetricFamily(
        "handrail_dead_letter_oldest_age_seconds",
        "Time since the oldest open dead letter failed first, 0 while none is open.",
        labels=["flow"],
    )
    for flow, since in backlog.ages.items():
        oldest.add_metric([flow], 0.0 if since is None else max(0, now - since) / 1000)
    yield oldest
    tasks = GaugeMetricFamily("handrail_tasks_open", "Human tasks that are open.", labels=["flow"])
    for flow, count in backlog.tasks.items():
        tasks.add_metric([flow], count)
    yield tasks
