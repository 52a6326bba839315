"""Metrics for Prometheus: all names in one place. No ids as labels.

Counters and gauges are made from `Vitals` when somebody asks; only what needs a distribution is observed as it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from handrail.vitals import Vitals

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_AGES = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0)

_COUNTED: Mapping[str, tuple[str, str]] = {
    "consumed": ("handrail_consumed", "Records taken from inbox and replay topic."),
    "duplicates": ("handrail_dedupe_hits", "Records that were dropped because they had been taken before."),
    "done": ("handrail_done", "Records handled to their end."),
    "delayed": ("handrail_delayed", "Times that a record was put back for later."),
    "discarded": ("handrail_discarded", "Records dropped on purpose, as the flow says."),
    "dead_letters": ("handrail_dead_letters", "Dead letters written."),
    "commits": ("handrail_commits", "Transactions committed."),
    "inner_failures": ("handrail_inner_failures", "Timers and results whose handler failed; they come again."),
}
"""Our own counts, and what they are called outside (`_total` is added)."""

_LABELLED = (
    ("handrail_calls", "Calls and questions to an outside system: `good`, or the class of the failure.", "calls."),
    ("handrail_runs_ended", "Runs that have come to an end, by their last state.", "runs."),
)
"""Counts by result: what follows the prefix in our own counters."""


class StageMetrics:
    """What one process observes. Made once by the service's composition root; `registry` is its own."""

    def __init__(self, service: str, vitals: Callable[[], Sequence[Vitals]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_FromVitals(service, vitals))
        self._commit = Histogram(
            "handrail_commit_seconds", "From the beginning of a transaction to its commit.", ["stage"],
            registry=self.registry, buckets=_SECONDS,
        )  # fmt: skip
        self._lateness = Histogram(
            "handrail_retry_lateness_seconds", "How long after its due time a retry was made.", ["stage"],
            registry=self.registry, buckets=_SECONDS,
        )  # fmt: skip
        self._age = Histogram(
            "handrail_retry_age_seconds", "How long after its first failure a retry was made.", ["stage"],
            registry=self.registry, buckets=_AGES,
        )  # fmt: skip

    def committed(self, stage: str, seconds: float) -> None:
        """One transaction was committed."""
        self._commit.labels(stage).observe(seconds)

    def retried(self, stage: str, late_ms: int, age_ms: int) -> None:
        """One waiting record was tried again."""
        self._lateness.labels(stage).observe(max(0, late_ms) / 1000)
        self._age.labels(stage).observe(max(0, age_ms) / 1000)


class _FromVitals(Collector):
    def __init__(self, service: str, vitals: Callable[[], Sequence[Vitals]]) -> None:
        self._service = service
        self._vitals = vitals

    def collect(self) -> Iterator[Metric]:
        vitals = self._vitals()
        yield InfoMetricFamily("handrail_service", "Which service this is.", {"service": self._service})
        for name, (outside, text) in _COUNTED.items():
            counted = CounterMetricFamily(outside, text, labels=["stage"])
            for one in vitals:
                counted.add_metric([one.stage], one.counters.get(name, 0))
            yield counted
        for name, text, prefix in _LABELLED:
            yield _by_label(name, text, "result", prefix, vitals)
        yield _by_label("handrail_failures", "Attempts that failed, by class.", "class", "failed.", vitals)
        yield _by_label(
            "handrail_transactions_aborted", "Transactions given up, by reason.", "reason", "aborted.", vitals
        )
        yield from _gauges(vitals)


def _by_label(name: str, text: str, label: str, prefix: str, vitals: Sequence[Vitals]) -> Metric:
    family = CounterMetricFamily(name, text, labels=["stage", label])
    for one in vitals:
        for counted, value in one.counters.items():
            if counted.startswith(prefix):
                family.add_metric([one.stage, counted.removeprefix(prefix)], value)
    return family


def _gauges(vitals: Sequence[Vitals]) -> Iterator[Metric]:
    def gauge(name: str, text: str, of: Callable[[Vitals], float]) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["stage"])
        for one in vitals:
            family.add_metric([one.stage], of(one))
        return family

    yield gauge("handrail_ready", "1 when it takes records, 0 while it starts, restores or is paused.", _ready)
    yield gauge("handrail_partitions", "Partitions of the inbox that it owns.", lambda one: len(one.partitions))
    yield gauge("handrail_held_partitions", "Partitions that wait for a flow version.", lambda one: len(one.held))
    yield gauge("handrail_waiting_records", "Delayed records.", lambda one: one.waiting)
    yield gauge("handrail_blocked_keys", "Keys with records behind one that waits.", lambda one: one.blocked)
    yield gauge("handrail_waiting_oldest_age_seconds", "Age of the longest waiting.", lambda one: one.oldest / 1000)
    yield gauge("handrail_open", "What is under way: calls whose outcome is not known yet.", lambda one: one.open)
    yield gauge("handrail_open_oldest_age_seconds", "Age of the oldest of it.", lambda one: one.open_oldest / 1000)
    yield gauge(
        "handrail_inbox_behind_seconds", "Age of what is taken now, 0 at the end.", lambda one: one.behind / 1000
    )
    yield gauge(
        "handrail_dedupe_headroom_seconds", "Left before duplicates are forgotten.", lambda one: one.headroom / 1000
    )
    yield gauge("handrail_full", "1 while no more is taken because too much is under way.", lambda one: one.full)
    lag = GaugeMetricFamily(
        "handrail_lag_records", "Records of the inbox that were not taken.", labels=["stage", "partition"]
    )
    for one in vitals:
        for partition, left in one.lag.items():
            lag.add_metric([one.stage, str(partition)], left)
    yield lag


def _ready(one: Vitals) -> float:
    return 0.0 if one.reasons() else 1.0
