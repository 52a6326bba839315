"""What every command needs, made in one place, and how answers are printed."""

from __future__ import annotations

import base64
import getpass
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import typer
from handrail.clock import Clock, SystemClock
from handrail.contracts import Contracts
from handrail.flow.duration import parse_duration
from handrail.recovery.letter import LETTER_BYTES
from handrail.settings import Settings
from handrail.telemetry import Telemetry
from rich.console import Console
from rich.table import Table
from rich.text import Text

from handrail_console.orders import Order, Send, Sender
from handrail_console.outcomes import Look, Outcome, watch
from handrail_console.queries import Queries
from handrail_console.words import line

FAILED = 1
USAGE = 2
WAIT_S = 30.0
Row = dict[str, Any]
WaitOption = typer.Option(min=0, help="Seconds to wait for what becomes of it; 0 sends and goes.")
ByOption = typer.Option(help="Who gives the order; you, if left out.", show_default=False)
MinutesOption = typer.Option(min=0, max=10_000, help="Minutes of work that it took you, for the measures.")
JsonOption = typer.Option("--json", help="Print JSON.")


@dataclass(frozen=True, slots=True)
class Room:
    """What commands are bound to. Tests hand one in as typer's `obj`."""

    settings: Settings
    clock: Clock
    send: Send | None = None
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic

    @contextmanager
    def ledger(self) -> Iterator[Queries]:
        """Raises StateError when there is none."""
        queries = Queries.open(self.settings.ledger)
        try:
            yield queries
        finally:
            queries.close()

    def warn(self, ledger: Queries) -> None:
        """Say it on stderr where the ledger is not up to date."""
        warning = ledger.standing(self.clock.now()).warning()
        if warning:
            say(warning, err=True)

    def contracts(self) -> Contracts:
        """Those of the project, dead letters of the largest size included."""
        return Contracts.load(self.settings.contracts, max_bytes=LETTER_BYTES)

    def deliver(self, orders: Sequence[Order]) -> None:
        """Raises Unreachable when Kafka did not take them."""
        telemetry = Telemetry.from_env("operator", os.environ)
        send = self.send or Sender(self.settings.bootstrap, self.contracts(), telemetry)
        send(orders)

    def watch(self, looks: Sequence[Look], seconds: float) -> list[Outcome]:
        """Wait for outcomes, with a sign of life where a person looks on."""
        waiting = Console(stderr=True)
        with waiting.status(f"waiting for {len(looks)}, at most {seconds:g} s"):
            return watch(looks, seconds, self.monotonic, self.sleep)


def room(context: typer.Context) -> Room:
    """The room of this call."""
    given = context.find_root().obj
    return given if isinstance(given, Room) else Room(Settings.from_env(os.environ), SystemClock())


def user(given: str | None) -> str:
    """Who gives an order."""
    if given:
        return given
    try:
        return os.environ.get("USER") or getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user without a name
        return f"uid {os.getuid()}"


def print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: object) -> object:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else str(value)


def say(text: str, *, err: bool = False) -> None:
    """One line to a person, as it is: no markup, no wrapping."""
    Console(stderr=err, soft_wrap=True, highlight=False).print(Text(text))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table of plain text. The first column is never cut."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(line(cell, 200)) if cell is not None else Text("-") for cell in row))
    Console().print(table)


def fail(text: str, hint: str = "") -> typer.Exit:
    """Say what is wrong on stderr and give the exit to raise."""
    say(text, err=True)
    if hint:
        say(hint, err=True)
    return typer.Exit(FAILED)


def start_of(since: str, now: int) -> int:
    """The beginning of the time asked for by `--since`, in ms. Raises BadParameter."""
    try:
        return now - parse_duration(since)
    except ValueError:
        pass
    try:
        return int(datetime.strptime(since, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise typer.BadParameter(f"{since!r} is neither 90d nor 2026-01-31", param_hint="--since") from None


def only_one(found: Sequence[Row], what: str, key: str, text: str, hint: str) -> Row:
    """The one row that was meant; else an exit with the candidates."""
    if len(found) == 1:
        return found[0]
    if not found:
        raise fail(f"no {what} {text!r} in the ledger", hint)
    exact = [row for row in found if row[key] == text]
    if exact:
        return exact[0]
    names = "\n".join(f"  {line(row[key], 60)}  {row['state']}" for row in found)
    raise fail(f"{text!r} means more than one {what}; name one of them by its id:\n{names}")
