"""`handrail measures`: how well the automations do, what for, and what they take of people."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Annotated

import typer

from handrail_console.arithmetic import quantile, share, sparkline
from handrail_console.commands.room import JsonOption, print_json, room, say, show_table, start_of
from handrail_console.measures import Measures, measure
from handrail_console.purpose import STANDINGS
from handrail_console.upkeep import Upkeep, Work
from handrail_console.words import amount, count, percent, span, within


class Part(StrEnum):
    SEGMENT = "segment"
    WEEK = "week"


def measures(
    context: typer.Context,
    flow: Annotated[str | None, typer.Option(help="Only of this flow.")] = None,
    by: Annotated[Part | None, typer.Option(help="Apart by segment or by week.")] = None,
    since: Annotated[str, typer.Option(help="Runs begun since: 12h, 90d, or a day (2026-01-31, UTC).")] = "90d",
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """Show failed runs by class, time to recovery, duplicate prevention and manual fallback.

    Beside them: the outcomes that flows declare, the minutes that people worked and were waited for, changes, reviews and
    incidents. By segment without what is not known apart.

    Example: handrail measures --flow order-to-invoice --by week --since 30d
    """
    here = room(context)
    now = here.clock.now()
    start = start_of(since, now)
    with here.ledger() as ledger:
        groups = measure(ledger.cases(start, flow, segments=by is Part.SEGMENT), by)
        here.warn(ledger)
    if as_json:
        print_json({"since": start, "until": now, "by": by, "measures": [group.told() for group in groups]})
    elif not groups:
        say("no runs began in that time")
    else:
        _show(groups, by, now)


def _show(groups: list[Measures], by: Part | None, now: int) -> None:
    part = [by.upper()] if by else []
    show_table(
        ["FLOW", *part, "RUNS", "FAILED", "RECOVERED IN", "STILL OPEN", "DUPLICATES STOPPED", "BY HAND", "TREND"],
        [
            [
                *_names(group, by),
                group.runs.total(),
                _failed(group),
                _recovery(group),
                _open(group.still_open, group.oldest_open_at, now)
                + (f"; {count(group.discarded, 'discarded', 'discarded')}" if group.discarded else ""),
                _duplicates(group),
                _by_hand(group),
                sparkline(group.weeks),
            ]
            for group in groups
        ],
    )
    say("")
    say("Trend: the share of runs that failed, by week. Recovered in: half of all failures (95 %), open ones included.")
    _show_some(
        ["FLOW", *part, "OUTCOME", "THERE IN", "IN TIME", "NOT YET", "GIVEN UP", "NOT WANTED"], _times(groups, by, now)
    )
    _show_some(["FLOW", *part, "OUTCOME", "UNIT", "DONE", "UNDER WAY", "AT RISK", "GIVEN UP"], _amounts(groups, by))
    _show_some(["FLOW", *part, "MINUTES BY HAND", "WAITED FOR", "CHANGES", "REVIEWS", "INCIDENTS"], _upkeep(groups, by))


def _show_some(columns: list[str], rows: list[list[object]]) -> None:
    if rows:
        say("")
        show_table(columns, rows)


def _names(group: Measures, by: Part | None) -> list[object]:
    return [group.flow, group.part] if by else [group.flow]


def _times(groups: list[Measures], by: Part | None, now: int) -> list[list[object]]:
    return [
        [
            *_names(group, by),
            name,
            _half_and_most(one.took),
            f"{one.kept:,} of {one.promised:,}{_in_brackets(share(one.kept, one.promised))}" if one.promised else None,
            _open(one.still_open, one.oldest_open_since, now),
            one.given_up,
            one.not_wanted,
        ]
        for group in groups
        for name, one in sorted(group.purpose.times.items())
    ]


def _amounts(groups: list[Measures], by: Part | None) -> list[list[object]]:
    return [
        [*_names(group, by), name, unit, *(amount(one.sums[each]) for each in STANDINGS)]
        for group in groups
        for name, unit, one in group.purpose.sorted_amounts()
    ]


def _upkeep(groups: list[Measures], by: Part | None) -> list[list[object]]:
    return [
        [*_names(group, by), _minutes(group.work), *([None] * 4 if by is Part.SEGMENT else _kept(group.upkeep))]
        for group in groups
        if group.work.orders or group.upkeep.any()
    ]


def _minutes(work: Work) -> str:
    silent = work.orders.total() - work.told_by
    told = f"{work.minutes.total():,} of {count(work.orders.total(), 'order')}"
    return told + (f", {silent:,} of which say none" if silent else "")


def _kept(upkeep: Upkeep) -> list[object]:
    waited = [f"{owner} {_half_and_most(took)}" for owner, took in sorted(upkeep.waited.items())]
    lasted = f", {span(upkeep.incident_ms)}" if upkeep.incident_ms else ""
    going_on = f", {upkeep.still_open:,} going on" if upkeep.still_open else ""
    reviews = f"{upkeep.reviews:,}" + (f", {upkeep.review_minutes:,} min" if upkeep.review_minutes else "")
    return ["; ".join(waited) or None, upkeep.changes, reviews, f"{len(upkeep.incidents):,}{lasted}{going_on}"]


def _half_and_most(took: Collection[int | None]) -> str | None:
    if not took:
        return None
    half, most = quantile(took, 50), quantile(took, 95)
    return f"{within(half)} ({within(most)})"


def _in_brackets(part: float | None) -> str:
    return "" if part is None else f" ({percent(part)})"


def _failed(group: Measures) -> str:
    by_class = ", ".join(f"{n} {name}" for name, n in group.failed.most_common())
    return f"{group.failed.total()} ({by_class})" if by_class else "0"


def _recovery(group: Measures) -> str | None:
    return _half_and_most(group.recovery)


def _open(n: int, oldest: int | None, now: int) -> str:
    return f"{n:,}" if oldest is None else f"{n:,}, for {span(now - oldest)}"


def _duplicates(group: Measures) -> str | None:
    if group.stopped is None or group.found is None:
        return None
    success = share(group.stopped, group.stopped + group.found)
    return str(group.stopped) if success is None else f"{group.stopped} ({percent(success)})"


def _by_hand(group: Measures) -> str:
    found = share(len(group.by_hand), group.finished)
    return f"{len(group.by_hand)} ({percent(found)})" if found else str(len(group.by_hand))
