"""What monitor knows: the last words of every process, what was counted in the windows, open letters, breakers. Pure.

Everything may come twice, and late: counters only grow within a process, letters only move on.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from handrail_monitor.facts import Breaker, Fact, Gone, Letter, Told

ALIVE_MS = 10_000
"""A process that was heard within this time is taken for alive."""
SET_BACK_MS = 10_000
"""Words that are older than the last ones by more than that were not late: somebody set a clock."""
YOUNG_MS = 10_000
"""What a process has counted so soon after its start was counted just now."""
CALLS_FAILING, RUNS_FAILING = "calls-failing", "runs-failing"
OWN = frozenset({"business", "rate_limited"})
"""Failures of calls in which the system is well: it says no, or asks to wait."""


@dataclass(slots=True)
class InARow:
    """Failures since the last success, as seen once a second: a second with both counts as a success.

    `held`: it was too long before monitor began, and no success was heard since.
    """

    count: int = 0
    since: int = 0
    held: bool = False

    def too_long(self, limit: int) -> bool:
        """Whether somebody must be told."""
        return self.held or self.count >= limit

    def add(self, good: int, failed: int, at: int) -> None:
        """What one second brought."""
        if good:
            self.count, self.held = 0, False
        elif failed:
            self.since = self.since if self.count or self.held else at
            self.count += failed


@dataclass(slots=True)
class Stage:
    """One stage, all its processes together. `moved_at`: when it last took something, or had nothing to take.

    `behind`: by how much a process's clock was set back; `again`: processes whose words are being read once more.
    """

    service: str
    first_at: int
    last_at: int = 0
    moved_at: int = 0
    blocked_since: int | None = None
    processes: dict[str, Told] = field(default_factory=dict)
    steps: deque[tuple[int, Counter[str]]] = field(default_factory=deque)
    starts: dict[str, int] = field(default_factory=dict)
    behind: dict[str, int] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)
    calls: InARow = field(default_factory=InARow)
    runs: InARow = field(default_factory=InARow)

    def hear(self, told: Told) -> None:
        """The next words of one of its processes; what is older than its last ones is no news."""
        before = self.processes.get(told.instance)
        if before is not None:
            told = self._by_one_clock(before, told)
            if told.at <= before.at:
                return
        self.again.discard(told.instance)
        self.service = told.service
        self.first_at = min(self.first_at, told.at)
        self.last_at = max(self.last_at, told.at)
        self.processes[told.instance] = told
        self.starts[told.instance] = told.started_at
        if before is not None:
            step = Counter(told.counters)
            step.subtract(before.counters)
        else:
            step = Counter(told.counters if told.at - told.started_at <= YOUNG_MS else {})
        step = +step
        if step:
            self.steps.append((told.at, step))
        self.calls.add(step["calls.good"], failed_calls(step), told.at)
        self.runs.add(step["runs.done"] + step["runs.done-by-hand"], step["runs.failed"], told.at)
        if not told.gauges.get("lag") or step["consumed"] or before is None:
            self.moved_at = told.at
        if not self.total("blocked", told.at):
            self.blocked_since = None
        elif self.blocked_since is None:
            self.blocked_since = told.at

    def _by_one_clock(self, before: Told, told: Told) -> Told:
        """A process whose clock was set back is not silent: its times go on from its last word."""
        name = told.instance
        if told.at > before.at:
            self.behind.pop(name, None)
            return told
        at = told.at + self.behind.get(name, 0)
        grown = all(told.counters.get(counter, 0) >= number for counter, number in before.counters.items())
        if before.at - at > SET_BACK_MS and grown and name not in self.again:
            self.behind[name] = before.at + 1 - told.at
            at = before.at + 1
        return replace(told, at=at)

    def moment(self, now: int) -> int:
        """When to judge it: now, or when it last spoke. What it said then holds until it speaks again."""
        return now if now - self.last_at <= ALIVE_MS else self.last_at

    def alive(self, now: int) -> list[Told]:
        """The last words of the processes that were there then."""
        return [one for one in self.processes.values() if now - one.at <= ALIVE_MS]

    def most_at_once(self) -> int:
        """How many processes it had at the same time, as far back as is remembered."""
        spans = [(one.started_at, one.at) for one in self.processes.values()]
        return max((sum(start <= began < end for start, end in spans) for began, _ in spans), default=0)

    def total(self, gauge: str, now: int) -> int:
        return sum(one.gauges.get(gauge, 0) for one in self.alive(now))

    def greatest(self, gauge: str, now: int) -> int:
        return max((one.gauges.get(gauge, 0) for one in self.alive(now)), default=0)

    def counted(self, now: int, window_ms: int) -> Counter[str]:
        """What all its processes have counted in the last `window_ms`."""
        found: Counter[str] = Counter()
        for at, step in reversed(self.steps):
            if at <= now - window_ms:
                break
            found.update(step)
        return found

    def forget(self, before: int) -> None:
        """What happened earlier."""
        while self.steps and self.steps[0][0] <= before:
            self.steps.popleft()
        self.processes = {name: one for name, one in self.processes.items() if one.at > before}
        self.starts = {name: at for name, at in self.starts.items() if at > before}
        self.behind = {name: ms for name, ms in self.behind.items() if name in self.processes}
        self.again &= self.processes.keys()


def failed_calls(counted: Mapping[str, int]) -> int:
    """Calls that failed by the system's fault."""
    return sum(
        number
        for name, number in counted.items()
        if name.startswith("calls.") and name != "calls.good" and name.removeprefix("calls.") not in OWN
    )


class Memory:
    """All facts so far. `horizon_ms`: the longest window that any rule asks for."""

    def __init__(self, horizon_ms: int) -> None:
        self.stages: dict[str, Stage] = {}
        self.letters: dict[str, Letter] = {}
        self.breakers: dict[str, Breaker] = {}
        self._horizon_ms = horizon_ms

    def hear(self, facts: Iterable[Fact]) -> None:
        """Learn, in any order of topics."""
        for fact in facts:
            match fact:
                case Told():
                    self.stages.setdefault(fact.stage, Stage(fact.service, fact.at)).hear(fact)
                case Letter():
                    self._letter(fact)
                case Gone(letter=name):
                    self.letters.pop(name, None)
                case Breaker():
                    self.breakers[fact.system] = fact

    def hear_again(self) -> None:
        """From now on old words are read once more: they count once."""
        for stage in self.stages.values():
            stage.again = set(stage.processes)

    def go_on(self, rule: str, subject: str, since: int) -> None:
        """An alert fired before monitor began: a row of failures, which can't be counted again, holds until a success."""
        if rule == CALLS_FAILING:
            name, service = f"action.{subject}", "action"
        elif rule == RUNS_FAILING:
            name, service = f"{subject}.decision", "decision"
        else:
            return
        stage = self.stages.setdefault(name, Stage(service, since, since))
        row = stage.calls if rule == CALLS_FAILING else stage.runs
        if not row.count:
            row.since, row.held = since, True

    def _letter(self, fact: Letter) -> None:
        """The newest generation counts; within it closed is closed, whichever topic came first. Its age stays its own."""
        before = self.letters.get(fact.letter)
        if before is not None and (before.generation, not before.open) > (fact.generation, not fact.open):
            return
        if before is not None and before.generation == fact.generation:
            fact = replace(fact, at=min(before.at, fact.at))
        self.letters[fact.letter] = fact

    def open_letters(self) -> list[Letter]:
        return [one for one in self.letters.values() if one.open]

    def forget(self, now: int) -> None:
        """What no rule will ask for any more. A closed letter is kept for a while, in case that its opening comes late."""
        for stage in self.stages.values():
            stage.forget(stage.moment(now) - self._horizon_ms)
        gone = [name for name, one in self.letters.items() if not one.open and now - one.at > self._horizon_ms]
        for name in gone:
            del self.letters[name]
