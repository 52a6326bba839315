"""`handrail measures`: how well the automations do, by the four measures."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from handrail_console.commands.room import JsonOption, print_json, room, say, show_table, start_of
from handrail_console.measures import Measures, measure, quantile, share, sparkline
from handrail_console.words import count, percent, span


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

    Example: handrail measures --flow order-to-invoice --by week --since 30d
    """
    here = room(context)
    now = here.clock.now()
    start = start_of(since, now)
    with here.ledger() as ledger:
        groups = measure(ledger.cases(start, flow), by)
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
                group.flow,
                *([group.part] if by else []),
                group.runs.total(),
                _failed(group),
                _recovery(group),
                _open(group, now),
                _duplicates(group),
                _by_hand(group),
                sparkline(group.weeks),
            ]
            for group in groups
        ],
    )
    say("")
    say("Trend: the share of runs that failed, by week. Recovered in: half of all failures (95 %), open ones included.")


def _failed(group: Measures) -> str:
    by_class = ", ".join(f"{n} {name}" for name, n in group.failed.most_common())
    return f"{group.failed.total()} ({by_class})" if by_class else "0"


def _recovery(group: Measures) -> str | None:
    if not group.recovery:
        return None
    half, most = quantile(group.recovery, 50), quantile(group.recovery, 95)
    return f"{'not yet' if half is None else span(half)} ({'not yet' if most is None else span(most)})"


def _open(group: Measures, now: int) -> str:
    told = str(group.still_open)
    if group.oldest_open_at is not None:
        told += f", for {span(now - group.oldest_open_at)}"
    return told + (f"; {count(group.discarded, 'discarded', 'discarded')}" if group.discarded else "")


def _duplicates(group: Measures) -> str | None:
    if group.stopped is None or group.found is None:
        return None
    success = share(group.stopped, group.stopped + group.found)
    return str(group.stopped) if success is None else f"{group.stopped} ({percent(success)})"


def _by_hand(group: Measures) -> str:
    found = share(len(group.by_hand), group.finished)
    return f"{len(group.by_hand)} ({percent(found)})" if found else str(len(group.by_hand))
