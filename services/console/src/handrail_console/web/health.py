"""How a flow is, in one word and with its reasons, and its four measures for people. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from handrail_console.arithmetic import quantile, share
from handrail_console.measures import FINISHED, Measures
from handrail_console.web.chart import Chart, trend
from handrail_console.words import count, percent, span, within


class Verdict(StrEnum):
    """Most urgent first; the value is what people read."""

    ACT = "Needs a person"
    WAITS = "Waits for a person"
    WELL = "Well"
    QUIET = "No runs"


@dataclass(frozen=True, slots=True)
class Open:
    """What stands open of a flow: dead letters and tasks, since when (ms)."""

    letters: int = 0
    letters_since: int | None = None
    tasks: int = 0
    overdue: int = 0
    alerts: tuple[str, ...] = ()
    """What critical alerts say that concern it."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure: its name, the number to see first, and what belongs to it."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True, slots=True)
class Health:
    """A flow, or a part of it, as a card shows it."""

    flow: str
    owner: str | None
    purpose: str | None
    verdict: Verdict
    reasons: tuple[str, ...]
    runs: int
    under_way: int
    figures: tuple[Figure, ...]
    trend: Chart


def health(measures: Measures, standing_open: Open, owner: str | None, purpose: str | None, now: int) -> Health:
    """Of a whole flow."""
    verdict, reasons = judge(measures, standing_open, now)
    return Health(
        measures.flow,
        owner,
        purpose,
        verdict,
        reasons,
        measures.runs.total(),
        under_way(measures),
        figures(measures, now),
        trend(measures.weeks),
    )


def judge(measures: Measures, standing_open: Open, now: int) -> tuple[Verdict, tuple[str, ...]]:
    """A person is needed for what monitor finds critical and for what no machine will finish; one is waited for while a
    task is not overdue.
    """
    act, waits = list(standing_open.alerts), []
    if standing_open.letters:
        since = (
            f", the oldest for {span(now - standing_open.letters_since)}"
            if standing_open.letters_since is not None
            else ""
        )
        act.append(f"{number(standing_open.letters, 'open dead letter')}{since}")
    elif measures.still_open:
        act.append(f"{number(measures.still_open, 'failure')} without an answer")
    if standing_open.overdue:
        act.append(f"{number(standing_open.overdue, 'overdue task')}")
    if standing_open.tasks > standing_open.overdue:
        waits.append(number(standing_open.tasks - standing_open.overdue, "open task"))
    if act:
        return Verdict.ACT, (*act, *waits)
    if waits:
        return Verdict.WAITS, tuple(waits)
    if measures.runs.total() or measures.failed.total():
        return Verdict.WELL, ()
    return Verdict.QUIET, ()


def figures(measures: Measures, now: int) -> tuple[Figure, ...]:
    """The four measures of flows.md, in its order."""
    return (_failed(measures), _recovery(measures, now), _duplicates(measures), _by_hand(measures))


def number(n: int, one: str) -> str:
    """`1,234 tasks`."""
    return f"{n:,} {count(n, one).partition(' ')[2]}"


def _failed(measures: Measures) -> Figure:
    by_class = ", ".join(f"{n:,} {name}" for name, n in measures.failed.most_common(3))
    return Figure("Failed runs", f"{measures.failed.total():,}", by_class or "none")


def _recovery(measures: Measures, now: int) -> Figure:
    name = "Time to recovery"
    if not measures.recovery:
        return Figure(name, "–", "nothing to recover from")
    half, most = quantile(measures.recovery, 50), quantile(measures.recovery, 95)
    details = [f"95 %: {within(most)}"]
    if measures.oldest_open_at is not None:
        details.append(f"{measures.still_open:,} open, for {span(now - measures.oldest_open_at)}")
    return Figure(name, within(half), "; ".join(details))


def _duplicates(measures: Measures) -> Figure:
    name = "Duplicates stopped"
    if measures.stopped is None or measures.found is None:
        return Figure(name, "–", "not known apart")
    success = share(measures.stopped, measures.stopped + measures.found)
    if success is None:
        return Figure(name, "0", "none came")
    return Figure(name, f"{measures.stopped:,}", f"{percent(success)}; {measures.found:,} found later")


def _by_hand(measures: Measures) -> Figure:
    found = share(len(measures.by_hand), measures.finished)
    why = ", ".join(f"{n:,} {name}" for name, n in measures.why.most_common(3))
    part = "" if found is None else f"{percent(found)} of {number(measures.finished, 'finished run')}"
    return Figure("Finished by hand", f"{len(measures.by_hand):,}", "; ".join(filter(None, (part, why))) or "none")


def under_way(measures: Measures) -> int:
    """Runs that have begun in the time, and neither ended nor failed."""
    return sum(n for state, n in measures.runs.items() if state not in FINISHED and state != "failed")
