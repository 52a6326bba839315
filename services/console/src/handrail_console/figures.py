"""What console says of itself to those who ask over HTTP: `/ready` in words, `/metrics` in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from handrail.vitals import Vitals
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from handrail_console.follower import Seen

SERVICE = "console"


def vitals(seen: Seen) -> Vitals:
    """Ready once it has looked, and while it can look; how much is to come is told, and no reason to restart it."""
    if seen.away is not None:
        return Vitals(SERVICE, "away", troubles=(seen.away,))
    return Vitals(SERVICE, "new" if seen.at is None else "follow", lag={0: sum(seen.lag.values())})


def registry(seen: Callable[[], Seen]) -> CollectorRegistry:
    """A registry of its own."""
    made = CollectorRegistry()
    made.register(_Ledger(seen))
    return made


class _Ledger(Collector):
    def __init__(self, seen: Callable[[], Seen]) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        seen = self._seen()
        ready = GaugeMetricFamily("handrail_ready", "1 when it follows the topics, 0 while it can't.", labels=["stage"])
        ready.add_metric([SERVICE], 0.0 if vitals(seen).reasons() else 1.0)
        yield ready
        lag = GaugeMetricFamily("handrail_ledger_lag_records", "Records that the ledger lacks.", labels=["topic"])
        for topic, records in seen.lag.items():
            lag.add_metric([topic], records)
        yield lag
        if seen.at is not None:
            yield GaugeMetricFamily(
                "handrail_ledger_looked_timestamp_seconds", "When console last looked at the topics.", value=seen.at
            )
