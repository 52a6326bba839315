"""`handrail review`: which flow was looked over when, and the note that it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

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
from handrail_console.words import line, moment, shown, span

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Standing:
    """A flow and its newest review; times in ms. `due_at` is None where its file asks for none."""

    flow: str
    owner: str | None
    every_ms: int | None
    last: Row | None

    @property
    def due_at(self) -> int | None:
        """At once (0) for a flow that was never reviewed."""
        return None if self.every_ms is None else self.last["at"] + self.every_ms if self.last else 0

    def late(self, now: int) -> bool:
        return self.due_at is not None and self.due_at < now


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

    How often is said by `review:` in the flow's file.

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
        last = ledger.reviews()
        here.warn(ledger)
    found = [Standing(name, about.owner, about.review_ms, last.get(name)) for name, about in flows.flows.items()]
    late = [one for one in found if one.late(now)]
    if as_json:
        print_json([_told(one, now) for one in found])
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
    if late:
        raise typer.Exit(FAILED)


def _next(one: Standing, now: int) -> str | None:
    if one.due_at is None:
        return None
    if one.last is None:
        return "now"
    return f"{span(now - one.due_at)} late" if one.late(now) else f"in {span(one.due_at - now)}"


def _told(one: Standing, now: int) -> Row:
    names = ("by", "reason", "minutes", "at")
    return {
        "flow": one.flow,
        "owner": one.owner,
        "every_ms": one.every_ms,
        "last": {name: one.last[name] for name in names} if one.last else None,
        "due_at": one.due_at,
        "late": one.late(now),
    }


def _note(here: Room, flow: str, version: int, said: Said, wait: float) -> None:
    now = here.clock.now()
    here.deliver([review_order(flow, version, said, now)])
    if not wait:
        say(f"sent: review of {flow} by {shown(said.by)}")
        return
    with here.ledger() as ledger:
        [outcome] = here.watch([lambda: review_outcome(flow, said.by, now, ledger.reviews().get(flow))], wait)
    say(f"{flow}  {outcome.state}  {shown(outcome.text)}")
    if not outcome.good:
        raise typer.Exit(FAILED)
