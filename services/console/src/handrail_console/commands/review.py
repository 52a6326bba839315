"""`handrail review`: which flow was looked over when, and the note that it was."""

from __future__ import annotations

from typing import Annotated

import typer
from handrail.flow.reading import did_you_mean

from handrail_console.commands.room import (
    FAILED,
    WAIT_S,
    ByOption,
    JsonOption,
    MinutesOption,
    Room,
    WaitOption,
    fail,
    print_json,
    room,
    say,
    show_table,
    user,
)
from handrail_console.orders import Said, review_order
from handrail_console.outcomes import review_outcome
from handrail_console.owners import Owners
from handrail_console.reviews import Review
from handrail_console.words import line, moment, shown, span


def review(
    context: typer.Context,
    flow: Annotated[str | None, typer.Argument(help="The flow that was reviewed; left out: show them all.")] = None,
    reason: Annotated[str | None, typer.Option(help="What came of it.")] = None,
    minutes: Annotated[int | None, MinutesOption] = None,
    by: Annotated[str | None, ByOption] = None,
    wait: Annotated[float, WaitOption] = WAIT_S,
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """Show which flow was reviewed when (exit code 1 when a review is late), or note that one was.

    How often is said by `review:` in the flow's file; it counts from the last review, else from the first run.

    Example: handrail review order-to-invoice --reason "limits are as sales wants them" --minutes 30
    """
    here = room(context)
    flows = Owners.load(here.settings.flows, here.settings.systems)
    if flow is None:
        if reason is not None or minutes is not None:
            raise typer.BadParameter("name the flow that was reviewed")
        _show(here, flows, as_json)
        return
    if flow not in flows.flows:
        raise fail(f"there is no flow {shown(flow)!r}", did_you_mean(flow, flows.flows))
    if not reason or not reason.strip():
        raise typer.BadParameter("write what came of it", param_hint="--reason")
    _note(here, flow, flows.flows[flow].version, Said(user(by), reason, minutes), wait)


def _show(here: Room, flows: Owners, as_json: bool) -> None:
    now = here.clock.now()
    with here.ledger() as ledger:
        last, first = ledger.reviews(), ledger.first_runs()
        here.warn(ledger)
    found = [
        Review(name, about.owner, about.review_ms, first.get(name), last.get(name))
        for name, about in flows.flows.items()
    ]
    if as_json:
        print_json([one.told(now) for one in found])
    elif not found:
        say("there is no flow")
    else:
        show_table(
            ["FLOW", "OWNER", "EVERY", "LAST REVIEW", "BY", "WHAT CAME OF IT", "NEXT"],
            [
                [
                    one.flow,
                    line(one.owner or "", 40) or None,
                    None if one.every_ms is None else span(one.every_ms),
                    moment(one.last["at"]) if one.last else "never",
                    line(one.last["by"], 40) if one.last else None,
                    line(one.last["reason"] or "", 80) if one.last else None,
                    _next(one, now),
                ]
                for one in found
            ],
        )
    if any(one.late(now) for one in found):
        raise typer.Exit(FAILED)


def _next(one: Review, now: int) -> str | None:
    if one.due_at is None:
        return None
    return f"{span(now - one.due_at)} late" if one.late(now) else f"in {span(one.due_at - now)}"


def _note(here: Room, flow: str, version: int, said: Said, wait: float) -> None:
    now = here.clock.now()
    here.deliver([review_order(flow, version, said, now)])
    if not wait:
        say(f"sent: review of {flow} by {shown(said.by)}")
        return
    with here.ledger() as ledger:
        [outcome] = here.watch([lambda: review_outcome(flow, said.by, ledger.reviewed(flow, said.by, now))], wait)
    say(f"{flow}  {outcome.state}  {shown(outcome.text)}")
    if not outcome.good:
        raise typer.Exit(FAILED)
