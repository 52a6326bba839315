"""`handrail ledger`: how the ledger stands, and making it anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

import typer
from handrail.errors import Unreachable
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from handrail_console.commands.room import JsonOption, Room, print_json, room, say, show_table
from handrail_console.database import Place
from handrail_console.migrate import HEAD
from handrail_console.projection import TOPICS
from handrail_console.reach import ends_of
from handrail_console.rebuilding import rebuild as make_anew
from handrail_console.schema import METADATA
from handrail_console.source import Source
from handrail_console.words import count, moment, span

app = typer.Typer(help="The ledger: what the topics say, in SQL.", no_args_is_help=True)
ASK_S = 4.0
_OF_ITSELF = ("ledger", "positions")


@app.command()
def status(context: typer.Context, as_json: Annotated[bool, JsonOption] = False) -> None:
    """Show how far the ledger is behind the topics, and what is in it.

    Example: handrail ledger status --json
    """
    here = room(context)
    try:
        ends, why = ends_of(here.settings.bootstrap, TOPICS, ASK_S), None
    except Unreachable as error:
        ends, why = None, str(error)
    with here.ledger() as ledger:
        now = here.clock.now()
        stands = ledger.standing(now, ends)
        newest = ledger.newest_transition()
        rows = {name: ledger.count(name) for name in METADATA.tables if name not in _OF_ITSELF}
    place = Place.of(here.settings.ledger)
    if as_json:
        told = {
            "ledger": str(place),
            "schema": HEAD,
            "lag": dict(stands.lag),
            "behind": stands.behind,
            "asked_kafka": stands.asked,
            "looked_at": stands.seen_at,
            "newest_transition_at": newest,
            "rows": rows,
        }
        print_json(told)
        return
    say(f"Ledger       {place}, schema {HEAD}")
    say(f"Newest       {f'a transition of {moment(newest)}' if newest else 'no transition yet'}")
    say(f"Looked       {span(now - stands.seen_at)} ago" + (": is console running?" if stands.silent else ""))
    if why:
        say(f"Lag          as console saw it then: {why}")
    say("")
    show_table(["TOPIC", "LAG"], [[topic, lag] for topic, lag in stands.lag.items()])
    say("")
    show_table(["TABLE", "ROWS"], list(rows.items()))
    if rows["unreadable"]:
        say(
            f"Warning: {count(rows['unreadable'], 'record')} could not be read; the table `unreadable` has them and why"
        )


@app.command()
def rebuild(context: typer.Context, as_json: Annotated[bool, JsonOption] = False) -> None:
    """Make the ledger anew from the topics. Console and readers may go on: it is replaced in one step at the end.

    What the topics no longer keep is then gone from it.

    Example: handrail ledger rebuild
    """
    here = room(context)
    place = Place.of(here.settings.ledger)
    with _bar() as progress:
        asyncio.run(_rebuild(here, place, progress))
    with here.ledger() as ledger:
        rows = {name: ledger.count(name) for name in METADATA.tables if name not in _OF_ITSELF}
    if as_json:
        print_json({"ledger": str(place), "rows": rows})
        return
    say(f"{place} was made anew: {count(rows['runs'], 'run')}, {count(rows['transitions'], 'transition')}")


async def _rebuild(here: Room, place: Place, progress: Callable[[int, int], None]) -> Any:
    connect = partial(Source.open, here.settings.bootstrap)
    return await make_anew(place, here.contracts(), connect, progress, here.clock)


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("reading the topics"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=None)
        yield lambda read, whole: shown.update(task, completed=read, total=max(whole, 1))
