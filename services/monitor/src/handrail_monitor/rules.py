"""The rules: from what is known to what is wrong now. Pure; each is a function, and RULES is all of them.

Texts are made of names of flows, stages, systems and classes and of numbers: nothing of a message gets into an alert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from handrail_monitor.limits import Limits
from handrail_monitor.memory import CALLS_FAILING, RUNS_FAILING, InARow, Memory, Stage, failed_calls
from handrail_monitor.times import span, within_hours
from handrail_monitor.watched import FlowWatch, Watched

WARNING, CRITICAL = "WARNING", "CRITICAL"
KAFKA_AWAY, PROCESS_SILENT, SILENCE = "kafka-away", "process-silent", "silence"
BEYOND_MS = 15_000
"""So much further than an age's limit is looked back, so that at its start monitor finds what is older than that."""
ENDS = ("runs.done", "runs.done-by-hand", "runs.failed", "runs.rejected", "runs.compensated", "runs.cancelled")


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition that holds now. `rule` and `subject` say which one it is; everything else may change while it lasts."""

    rule: str
    subject: str
    severity: str
    what: str
    flow: str | None = None
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Came:
    """How many events of a flow came in the last `window_ms`; whether that is a time in which any are expected."""

    count: int
    least: int
    window_ms: int
    is_due: bool

    @property
    def is_enough(self) -> bool:
        return self.count >= self.least


@dataclass(frozen=True, slots=True)
class Sight:
    """What a rule looks at. Monitor has seen without a break from `since` on: silence before that tells nothing."""

    memory: Memory
    watched: Watched
    limits: Limits
    now: int
    since: int

    def silent(self, stage: str) -> bool:
        """Whether nobody tells of this stage, although monitor listens."""
        known = self.memory.stages.get(stage)
        last = max(known.last_at if known else 0, self.since)
        return self.now - last > self.limits.silent_ms

    def judges(self, rule: str, subject: str) -> bool:
        """Whether no finding means that all is well.

        That somebody is silent shows only after listening for so long; that a flow is, only within its hours.
        """
        if rule == PROCESS_SILENT:
            return self.now - self.since > self.limits.silent_ms
        flow = self.watched.flows.get(subject) if rule == SILENCE else None
        if flow is None or not _expected(flow, self.limits)[0]:
            return True
        came = self.came(flow)
        return came is not None and (came.is_due or came.is_enough)

    def came(self, flow: FlowWatch) -> Came | None:
        """What came of a flow of which something is expected; None where that can't be known yet."""
        window, least = _expected(flow, self.limits)
        stages = [stage for name in flow.ingest if (stage := self.memory.stages.get(name))]
        if not window or len(stages) < len(flow.ingest):
            return None
        now = min(stage.moment(self.now) for stage in stages)
        if any(stage.first_at > now - window for stage in stages):
            return None
        count = sum(stage.counted(now, window)["consumed"] for stage in stages)
        is_due = within_hours(flow.expect.hours if flow.expect else None, now - window, now)
        return Came(count, least, window, is_due)

    def heard(self) -> Iterator[tuple[str, Stage, int]]:
        """Every stage that has spoken, and when to judge it: a finding must not end because its process has died."""
        for name, stage in sorted(self.memory.stages.items()):
            yield name, stage, stage.moment(self.now)


Rule = Callable[[Sight], Iterator[Finding]]


def process_silent(sight: Sight) -> Iterator[Finding]:
    """A service of which nothing is heard, or some of whose stages say nothing."""
    by_service: dict[str, list[str]] = {}
    for name, service in sight.watched.expected.items():
        if sight.silent(name):
            by_service.setdefault(service, []).append(name)
    for service, names in sorted(by_service.items()):
        lasts = [known.last_at for name in names if (known := sight.memory.stages.get(name))]
        since = f"for {span(sight.now - max(lasts))}" if lasts else "since monitor began to listen"
        yield Finding(
            PROCESS_SILENT, service, CRITICAL, f"{service} has said nothing {since}: {', '.join(sorted(names))}."
        )


def paused(sight: Sight) -> Iterator[Finding]:
    """A partition that waits for a flow version that its process does not have."""
    for name, stage, now in sight.heard():
        if held := stage.total("held", now):
            what = f"{name} has paused {held} of its partitions: it does not have a flow's version."
            flow = sight.watched.flow_of(name)
            yield Finding("paused", name, CRITICAL, what, flow.name if flow else None, _system(name))


def restarts(sight: Sight) -> Iterator[Finding]:
    """A stage whose process starts again and again. One service's stages start together: one finding.

    That one more process works beside the others is no restart: a deploy or a scale-up starts as many as work at once.
    """
    most: dict[str, int] = {}
    for stage in sight.memory.stages.values():
        recent = sum(1 for at in stage.starts.values() if at > sight.now - sight.limits.window_ms)
        recent -= max(0, stage.most_at_once() - 1)
        most[stage.service] = max(recent, most.get(stage.service, 0))
    for service, count in sorted(most.items()):
        if count > sight.limits.restarts:
            what = f"{service} was started {count} times in {span(sight.limits.window_ms)}."
            yield Finding("restarts", service, CRITICAL, what)


def calls_failing(sight: Sight) -> Iterator[Finding]:
    """An outside system that fails: all calls in a row, or too many of them."""
    for name, stage, now in sight.heard():
        system = name.removeprefix("action.")
        if system == name:
            continue
        if stage.calls.too_long(sight.limits.in_a_row):
            age = span(now - stage.calls.since)
            what = f"{_many(stage.calls)}calls to {system} failed and none went well, for {age} now."
            yield Finding(CALLS_FAILING, system, CRITICAL, what, system=system)
            continue
        counted = stage.counted(now, sight.limits.window_ms)
        failed = failed_calls(counted)
        total = failed + counted["calls.good"]
        if total >= sight.limits.least and failed / total > sight.limits.calls_failed_rate:
            window = span(sight.limits.window_ms)
            what = f"{failed} of {total} calls to {system} failed in {window}: {_classes(counted, 'calls.')}."
            yield Finding(CALLS_FAILING, system, WARNING, what, system=system)


def runs_failing(sight: Sight) -> Iterator[Finding]:
    """A flow whose runs fail: all in a row, or more than its share. Events refused before they were runs count, too."""
    for flow in sight.watched.flows.values():
        window = sight.limits.window_ms if flow.over_ms is None else flow.over_ms
        limit = sight.limits.failed_rate if flow.failed_rate is None else flow.failed_rate
        failed = total = 0
        row = InARow()
        for name in flow.stages:
            stage = sight.memory.stages.get(name)
            if stage is None:
                continue
            counted = stage.counted(stage.moment(sight.now), window)
            ended = sum(counted[end] for end in ENDS)
            refused = 0 if ended or name.endswith(".decision") else counted["dead_letters"]
            failed += counted["runs.failed"] + refused
            total += ended + refused
            row = max(row, stage.runs, key=lambda one: (one.held, one.count))
        if row.too_long(sight.limits.in_a_row):
            what = f"{_many(row)}runs of {flow.name} failed, and none was done between them."
            yield Finding(RUNS_FAILING, flow.name, CRITICAL, what, flow=flow.name)
        elif total >= sight.limits.least and failed / total > limit:
            what = f"{failed} of {total} runs of {flow.name} failed in {span(window)}; {limit:.1%} are allowed."
            yield Finding(RUNS_FAILING, flow.name, WARNING, what, flow=flow.name)


def oldest_letter(sight: Sight) -> Iterator[Finding]:
    """Dead letters that nobody has looked after, by flow."""
    by_flow: dict[str | None, list[int]] = {}
    for one in sight.memory.open_letters():
        own = sight.watched.flow_of(one.stage)
        by_flow.setdefault(one.flow or (own.name if own else None), []).append(one.at)
    for name, times in sorted(by_flow.items(), key=lambda each: each[0] or ""):
        flow = sight.watched.flows.get(name or "")
        limit = flow.oldest_letter_ms if flow and flow.oldest_letter_ms is not None else sight.limits.oldest_letter_ms
        age = sight.now - min(times)
        if age > limit:
            what = f"{len(times)} dead letters of {name or 'no flow'} are open, the oldest for {span(age)}."
            yield Finding("oldest-dead-letter", name or "no-flow", WARNING, what, flow=name)


def misconfigured(sight: Sight) -> Iterator[Finding]:
    """Dead letters of class config: nothing will go well until somebody changes a setting."""
    by_stage: dict[str, int] = {}
    for one in sight.memory.open_letters():
        if one.failure_class == "config":
            by_stage[one.stage] = by_stage.get(one.stage, 0) + 1
    for stage, count in sorted(by_stage.items()):
        flow = sight.watched.flow_of(stage)
        what = f"{count} dead letters of {stage} are of class config: a secret, an address or a right is wrong."
        yield Finding("misconfigured", stage, CRITICAL, what, flow=flow.name if flow else None)


def silence(sight: Sight) -> Iterator[Finding]:
    """A flow that should have run and did not: fewer events than it expects, by `expect` or by the deployment's limit."""
    for flow in sight.watched.flows.values():
        came = sight.came(flow)
        if came is not None and came.is_due and not came.is_enough:
            what = (
                f"{came.count} events of {flow.name} came in {span(came.window_ms)}; "
                f"at least {came.least} are expected."
            )
            yield Finding(SILENCE, flow.name, WARNING if came.count else CRITICAL, what, flow=flow.name)


def stuck(sight: Sight) -> Iterator[Finding]:
    """Runs that get no outcome, or wait for their next attempt, for too long."""
    for name, stage, now in sight.heard():
        calls, waits = stage.greatest("open_oldest_ms", now), stage.greatest("oldest_ms", now)
        if max(calls, waits) > sight.limits.stuck_ms:
            count = stage.total("open", now) + stage.total("waiting", now)
            what = f"{count} runs are under way or wait in {name}, the oldest for {span(max(calls, waits))}."
            flow = sight.watched.flow_of(name)
            yield Finding("stuck-runs", name, WARNING, what, flow.name if flow else None, _system(name))


def lagging(sight: Sight) -> Iterator[Finding]:
    """A stage that does not keep up, or takes nothing although there is something to take."""
    for name, stage, now in sight.heard():
        left, flow = stage.total("lag", now), sight.watched.flow_of(name)
        still, behind = now - stage.moved_at, stage.greatest("behind_ms", now)
        if left and still > sight.limits.stalled_ms:
            what = f"{name} has taken nothing for {span(still)}, and {left} records wait for it."
            yield Finding("lag", name, CRITICAL, what, flow.name if flow else None, _system(name))
        elif left and behind > sight.limits.behind_ms:
            what = f"{name} is {span(behind)} behind: {left} records wait for it."
            yield Finding("lag", name, WARNING, what, flow.name if flow else None, _system(name))


def breaker_open(sight: Sight) -> Iterator[Finding]:
    """A system whose work waits because its breaker is open."""
    for one in sight.memory.breakers.values():
        if one.open:
            what = f"The breaker of {one.system} has been open for {span(sight.now - one.since)}."
            yield Finding("breaker-open", one.system, CRITICAL, what, system=one.system)


def blocked_keys(sight: Sight) -> Iterator[Finding]:
    """Keys with records that wait behind a failure of their own."""
    for name, stage, now in sight.heard():
        since = stage.blocked_since
        if since is not None and now - since > sight.limits.blocked_ms:
            count, flow = stage.total("blocked", now), sight.watched.flow_of(name)
            what = f"{count} keys are held back in {name} behind a failure, for {span(now - since)} now."
            yield Finding("blocked-keys", name, WARNING, what, flow.name if flow else None, _system(name))


RULES: tuple[Rule, ...] = (
    process_silent,
    paused,
    restarts,
    calls_failing,
    runs_failing,
    oldest_letter,
    misconfigured,
    silence,
    stuck,
    lagging,
    breaker_open,
    blocked_keys,
)


def judge(sight: Sight) -> list[Finding]:
    """Everything that is wrong now."""
    return [finding for rule in RULES for finding in rule(sight)]


def _expected(flow: FlowWatch, limits: Limits) -> tuple[int, int]:
    """The window, 0 for none, and the events that must come in it."""
    return (flow.expect.per_ms, flow.expect.at_least) if flow.expect else (limits.silence_ms, 1)


def horizon_ms(watched: Watched, limits: Limits) -> int:
    """How far back any rule looks."""
    ages = max(limits.stalled_ms, limits.blocked_ms) + BEYOND_MS  # they are counted from what was heard
    windows = [limits.window_ms, ages, *(_expected(flow, limits)[0] for flow in watched.flows.values())]
    return max([*windows, *(flow.over_ms or 0 for flow in watched.flows.values())])


def _many(row: InARow) -> str:
    """How many, where monitor has counted them itself."""
    return "" if row.held else f"{row.count} "


def _system(stage: str) -> str | None:
    return stage.removeprefix("action.") if stage.startswith("action.") else None


def _classes(counted: dict[str, int], prefix: str) -> str:
    found = {name.removeprefix(prefix): number for name, number in counted.items() if name.startswith(prefix)}
    found.pop("good", None)
    return ", ".join(f"{number} {name}" for name, number in sorted(found.items(), key=lambda each: (-each[1], each[0])))
