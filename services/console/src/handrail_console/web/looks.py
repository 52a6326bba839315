"""What each page shows, as plain values: questions to the ledger, and nothing of HTTP or HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any

from handrail_console.letters import what_to_do
from handrail_console.measures import Measures, measure
from handrail_console.owners import About, Owners
from handrail_console.queries import Queries
from handrail_console.standing import Standing
from handrail_console.story import Story, doubts, task_steps, tell
from handrail_console.web import beside
from handrail_console.web.health import Figure, Health, Open, Verdict, figures, health

Row = dict[str, Any]
DAY_MS = 86_400_000
OPEN_LETTERS = ("OPEN", "REPLAYING")
OPEN_TASKS = ("open",)
CRITICAL = "CRITICAL"
FIRST = 5
MOST = 100
PAGE = 50
STEPS_SHOWN = 500
_ORDER = list(Verdict)


@dataclass(frozen=True, slots=True)
class Ledger:
    """How much the rest may be believed: what console saw when it last looked, and when that was (ms)."""

    standing: Standing
    newest: int | None

    @property
    def fresh(self) -> bool:
        return self.standing.warning() is None


@dataclass(frozen=True, slots=True)
class Watching:
    """What monitor finds just now, the worst first. `warning`: nobody watches, as far as the ledger knows; else None."""

    alerts: Sequence[Row]
    warning: str | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What is dear to compute, as it was at `at`, over the time since `since` (ms): of all flows, or of one in parts."""

    at: int
    since: int
    names: Sequence[str]
    whole: Mapping[str, Measures]
    weeks: Sequence[Measures] = ()
    segments: Sequence[Measures] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A week or a segment of a flow."""

    name: str
    runs: int
    figures: Sequence[Figure]


@dataclass(frozen=True, slots=True)
class FlowLook:
    """One flow, whole and by week and segment."""

    health: Health
    classes: Sequence[tuple[str, int]]
    purpose: Sequence[Figure]
    people: Sequence[Figure]
    weeks: Sequence[Part]
    segments: Sequence[Part]


@dataclass(frozen=True, slots=True)
class RunsLook:
    """One page of runs; `older` is where the next one begins."""

    rows: Sequence[Row]
    in_all: int | None
    older: tuple[int, str] | None


@dataclass(frozen=True, slots=True)
class RunLook:
    """A run with its story. `left_out` steps at its beginning are not told."""

    run: Row
    story: Story
    left_out: int
    doubts: Sequence[str]
    letters: Sequence[Row]
    tasks: Sequence[Row]


def ledger(queries: Queries, now: int) -> Ledger:
    return Ledger(queries.standing(now), queries.newest_transition())


def watching(queries: Queries, now: int) -> Watching:
    return Watching(alerts(queries), queries.monitor(now).warning())


def alerts(queries: Queries) -> list[Row]:
    return queries.alerts(limit=MOST)


def measure_all(queries: Queries, since: int, now: int) -> Measured:
    measured = {one.flow: one for one in measure(queries.cases(since, segments=False), None)}
    return Measured(now, since, queries.flows(), measured)


def measure_one(queries: Queries, name: str, since: int, now: int) -> Measured:
    cases = queries.cases(since, name, segments=False)  # of outcomes by segment it shows nothing
    whole = {one.flow: one for one in measure(cases, None)}
    weeks, segments = measure(cases, "week"), measure(cases, "segment")
    return Measured(now, since, list(whole) or queries.flows(), whole, weeks, segments[:MOST])


def overview(queries: Queries, owners: Owners, measured: Measured, alerts: Iterable[Row], now: int) -> list[Health]:
    """Those that need a person first, as it stands now; flows of the files are there before their first run."""
    opened = open_of(queries, owners, alerts, now)
    names = {*measured.whole, *opened, *measured.names, *owners.flows}
    flows = [_health(name, measured.whole.get(name), opened.get(name), owners, now) for name in names]
    return sorted(flows, key=lambda one: (_ORDER.index(one.verdict), one.flow))


def knows(queries: Queries, owners: Owners, name: str, now: int) -> bool:
    """Whether there is such a flow: cheap to say, unlike its measures."""
    return name in owners.flows or name in queries.flows() or name in open_of(queries, owners, alerts(queries), now)


def flow(queries: Queries, owners: Owners, name: str, measured: Measured, now: int) -> FlowLook | None:
    """None where nobody knows it."""
    whole, opened = measured.whole.get(name), open_of(queries, owners, alerts(queries), now).get(name)
    if opened is None and name not in {*measured.names, *owners.flows}:
        return None
    return FlowLook(
        _health(name, whole, opened, owners, now),
        whole.failed.most_common() if whole else (),
        beside.purpose(whole, now) if whole else (),
        beside.people(whole) if whole else (),
        [_part(one, now) for one in reversed(measured.weeks)],
        [_part(one, now) for one in measured.segments],
    )


def open_of(queries: Queries, owners: Owners, alerts: Iterable[Row], now: int) -> dict[str, Open]:
    """By flow; a letter without one counts for the flow that its stage is named for, else for the stage."""
    found: dict[str, Open] = {}
    for row in queries.open_by_flow(OPEN_LETTERS[:1]):
        name = row["flow"] or _flow_of(row["stage"], owners.flows)
        before = found.get(name, Open())
        oldest = min(row["oldest"], row["oldest"] if before.letters_since is None else before.letters_since)
        found[name] = replace(before, letters=before.letters + row["count"], letters_since=oldest)
    for row in queries.tasks_by_flow(now):
        found[row["flow"]] = replace(found.get(row["flow"], Open()), tasks=row["count"], overdue=row["overdue"])
    for row in alerts:
        for name in concerned(row, owners.flows, found) if row["severity"] == CRITICAL else ():
            before = found.get(name, Open())
            found[name] = replace(before, alerts=(*before.alerts, row["what"].rstrip(".")))
    return found


def concerned(alert: Row, flows: Mapping[str, About], known: Iterable[str]) -> set[str]:
    """The flows that an alert is about: its own, those that call its system, else all."""
    if alert["flow"]:
        return {alert["flow"]}
    if alert["system"]:
        return {name for name, about in flows.items() if alert["system"] in about.systems}
    return {*flows, *known}


def incidents(queries: Queries, owners: Owners, limit: int) -> list[Row]:
    """Open dead letters that failed alike: with whose they are, and what to do."""
    return [
        {**row, "owner": owners.of(row["flow"], row["stage"]), "next": _next(row)}
        for row in queries.incidents(OPEN_LETTERS, limit)
    ]


def tasks(queries: Queries, limit: int) -> list[Row]:
    """Open tasks, what is due first at the top."""
    return [{**row, "next": task_steps(row)} for row in queries.tasks(OPEN_TASKS, limit=limit)]


def runs(
    queries: Queries, states: Sequence[str], flow: str | None, text: str, after: tuple[int, str] | None
) -> RunsLook:
    """`text` finds by id, business key or beginning of an id; then the filters do not count."""
    if text:
        return RunsLook(queries.find_runs(text, PAGE), None, None)
    rows = queries.runs(states, flow, PAGE + 1, after)
    shown = rows[:PAGE]
    older = (shown[-1]["updated_at"], shown[-1]["run"]) if len(rows) > PAGE else None
    return RunsLook(shown, queries.count_runs(states, flow), older)


def run(queries: Queries, name: str, now: int) -> RunLook | None:
    """None where there is none of this id."""
    row = queries.run(name)
    if row is None:
        return None
    steps, letters, tasks = queries.transitions(name), queries.letters_of(name), queries.tasks_of(name)
    story = tell(row, steps, letters, tasks, now)
    kept = Story(story.told[-STEPS_SHOWN:], story.standing, story.next_steps)
    return RunLook(row, kept, len(story.told) - len(kept.told), doubts(row, steps), letters, tasks)


def _health(name: str, measures: Measures | None, opened: Open | None, owners: Owners, now: int) -> Health:
    about = owners.flows.get(name, About())
    return health(measures or Measures(name, None), opened or Open(), owners.of(name, name), about.purpose, now)


def _part(measures: Measures, now: int) -> Part:
    return Part(measures.part or "", measures.runs.total(), figures(measures, now))


def _flow_of(stage: str, flows: Mapping[str, About]) -> str:
    name = stage.partition(".")[0]
    return name if name in flows else stage


def _next(row: Row) -> list[str]:
    """Of an incident of one letter as `handrail dlq show` has it; of more: try it with one, then with all."""
    steps = what_to_do(row)
    if row["count"] == 1 or row["state"] != "OPEN" or not row["flow"]:
        return steps
    first, try_one, *rest = steps
    named = f"--flow {quote(row['flow'])} --class {quote(row['failure_class'])}"
    return [first, try_one, f"when that went through, all of their class: handrail dlq replay --all {named}", *rest]
