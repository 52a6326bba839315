"""`handrail dlq`: the messages that no machine could finish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any

import typer
from handrail.recovery import ErrorClass

from handrail_console.commands.room import (
    FAILED,
    WAIT_S,
    ByOption,
    JsonOption,
    MinutesOption,
    Room,
    WaitOption,
    only_one,
    print_json,
    room,
    say,
    show_table,
    user,
)
from handrail_console.letters import incidents, told, what_to_do
from handrail_console.orders import Said, letter_order
from handrail_console.outcomes import letter_outcome
from handrail_console.queries import LetterFilter, Queries
from handrail_console.words import count, line, moment, short_length, shown, span

app = typer.Typer(help="Dead letters: messages that no machine could finish.", no_args_is_help=True)
FIND = "handrail dlq list --state all shows every dead letter"
Row = dict[str, Any]
LetterArgument = typer.Argument(help="The letter's id, or the beginning of it.")
FlowOption = typer.Option(help="Only of this flow.")
ClassOption = typer.Option("--class", help="Only of this failure class.")


class Grouping(StrEnum):
    FINGERPRINT = "fingerprint"


@app.command("list")
def list_letters(
    context: typer.Context,
    state: Annotated[
        list[str] | None, typer.Option(help="OPEN (the default), REPLAYING, RESOLVED, DISCARDED, MANUAL, all.")
    ] = None,
    flow: Annotated[str | None, FlowOption] = None,
    failure_class: Annotated[ErrorClass | None, ClassOption] = None,
    by: Annotated[Grouping | None, typer.Option(help="Group those that failed alike.")] = None,
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """List dead letters, the oldest first.

    Example: handrail dlq list --by fingerprint
    """
    here, states = room(context), [each.upper() for each in state or ["OPEN"]]
    with here.ledger() as ledger:
        rows = ledger.letters(LetterFilter(() if "ALL" in states else states, flow, failure_class))
    groups = incidents(rows) if by else []
    if as_json:
        print_json(groups if by else [told(row) for row in rows])
    elif not rows:
        say("no dead letter is so" if flow or failure_class or states != ["OPEN"] else "no open dead letters")
    elif by:
        _show_incidents(groups, here.clock.now())
    else:
        _show_letters(rows, here.clock.now())


def _show_letters(rows: Sequence[Row], now: int) -> None:
    length = short_length(row["letter"] for row in rows)
    show_table(
        ["LETTER", "STATE", "STAGE", "KEY", "CLASS", "SINCE", "REPLAYS", "WHY"],
        [
            [
                row["letter"][:length],
                row["state"],
                row["stage"],
                line(row["route"], 30) if row["route"] is not None else None,
                row["failure_class"],
                span(now - row["failed_at"]),
                row["replays"],
                line(row["message"], 80),
            ]
            for row in rows
        ],
    )


def _show_incidents(groups: Sequence[Row], now: int) -> None:
    show_table(
        ["FINGERPRINT", "COUNT", "STAGE", "CLASS", "FIRST", "LAST", "WHY (ONE OF THEM)"],
        [
            [
                group["fingerprint"],
                group["count"],
                group["stage"],
                group["failure_class"],
                f"{span(now - group['first_seen'])} ago",
                f"{span(now - group['last_seen'])} ago",
                line(group["message"], 80),
            ]
            for group in groups
        ],
    )


@app.command("show")
def show_letter(
    context: typer.Context, letter: Annotated[str, LetterArgument], as_json: Annotated[bool, JsonOption] = False
) -> None:
    """Show a dead letter: what it was, why it failed, and what to do.

    Example: handrail dlq show 9c1d2e3f
    """
    here = room(context)
    with here.ledger() as ledger:
        row = only_one(ledger.find_letters(letter), "dead letter", "letter", letter, FIND)
    full = told(row, here.contracts())
    if as_json:
        print_json(full)
        return
    for name, value in _fields(row, full):
        say(f"{name:<13}{shown(value)}")
    if row["stack"]:
        say("")
        say(shown(row["stack"].rstrip()))
    say("")
    say("What to do next:")
    for step in what_to_do(row):
        say(f"  {shown(step)}")


def _fields(row: Row, full: Row) -> list[tuple[str, object]]:
    flow = f"{row['flow']} v{row['version']}" if row["flow"] else "-"
    state = f"{row['state']} since {moment(row['state_at'])}"
    state += f" by {row['state_by']}" if row["state_by"] else ""
    state += f": {row['state_reason']}" if row["state_reason"] else ""
    headers = [(f"  {name}", value) for name, value in full["headers"]]
    payload = full["payload"]
    return [
        ("Letter", f"{row['letter']}, generation {row['generation']}, {count(row['replays'], 'replay')}"),
        ("State", state),
        ("Failed", f"{row['failure_class']}: {row['message']}"),
        ("Field", row["field"] or "-"),
        ("Exception", row["exception"] or "-"),
        ("Attempts", f"{row['attempts']}, first {moment(row['first_failed_at'])}, last {moment(row['failed_at'])}"),
        ("Fingerprint", row["fingerprint"]),
        ("Stage", row["stage"]),
        ("Flow", flow + (f", step {row['step']}" if row["step"] else "")),
        ("Run", f"{row['run']}   (handrail runs show {row['run']})" if row["run"] else "-"),
        ("Business key", row["route"] if row["route"] is not None else "-"),
        ("Trace", row["trace"] or "-"),
        ("Stood at", f"{row['topic']}, partition {row['partition']}, offset {row['offset']}"),
        ("Written", moment(row["timestamp"])),
        ("Event id", row["event_id"] or "-"),
        ("Contract", row["contract"] or "-"),
        ("Key", full["key"]),
        ("Headers", "" if headers else "-"),
        *headers,
        ("Payload", f"{payload['bytes']} bytes, hash {row['payload_hash']}, {payload['told']}"),
        ("", payload["shown"]),
    ]


@app.command()
def replay(
    context: typer.Context,
    letters: Annotated[list[str] | None, typer.Argument(help="Letters by id or its beginning.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every open one, narrowed by --flow and --class.")] = False,
    flow: Annotated[str | None, FlowOption] = None,
    failure_class: Annotated[ErrorClass | None, ClassOption] = None,
    reason: Annotated[str | None, typer.Option(help="What was mended.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    minutes: Annotated[int | None, MinutesOption] = None,
    by: Annotated[str | None, ByOption] = None,
    wait: Annotated[float, WaitOption] = WAIT_S,
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """Send open dead letters back to the stage that gave up on them, and report what became of each.

    Example: handrail dlq replay --all --class business --reason "credit limit raised"
    """
    here = room(context)
    plan = _plan(here, letters or [], all_, flow, failure_class)
    ready = [row for row in plan if row["state"] == "OPEN"]
    if not plan:
        say("no open dead letter is so: nothing to replay", err=True)
        if as_json:
            print_json([])
        return
    if len(ready) > 1 and not yes:
        kinds = Counter(f"{row['failure_class']} at {row['stage']}" for row in ready)
        for kind, number in kinds.most_common():
            say(f"{number:>6}  {kind}", err=True)
        typer.confirm(f"Replay these {len(ready)} dead letters?", abort=True, err=True)
    _order(here, "replay", plan, ready, Said(user(by), reason, minutes), wait, as_json)


@app.command()
def discard(
    context: typer.Context,
    letters: Annotated[list[str], typer.Argument(help="Letters by id or its beginning.")],
    reason: Annotated[str, typer.Option(help="Why nothing needs to be done about it.")],
    minutes: Annotated[int | None, MinutesOption] = None,
    by: Annotated[str | None, ByOption] = None,
    wait: Annotated[float, WaitOption] = WAIT_S,
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """Close open dead letters without doing anything, with a reason.

    Example: handrail dlq discard 9c1d2e3f --reason "a test of the shop's"
    """
    if not reason.strip():
        raise typer.BadParameter("it is empty; write why", param_hint="--reason")
    here = room(context)
    plan = _plan(here, letters, False, None, None)
    ready = [row for row in plan if row["state"] == "OPEN"]
    _order(here, "discard", plan, ready, Said(user(by), reason, minutes), wait, as_json)


def _plan(here: Room, names: Sequence[str], every: bool, flow: str | None, failure_class: str | None) -> list[Row]:
    """The letters that are meant, frozen as they are now; each once."""
    if bool(names) == every:
        raise typer.BadParameter("name letters, or say --all (narrowed by --flow and --class)")
    if names and (flow or failure_class):
        raise typer.BadParameter("--flow and --class narrow --all; they do not go with named letters")
    with here.ledger() as ledger:
        if every:
            return ledger.letters(LetterFilter(("OPEN",), flow, failure_class))
        found = [only_one(ledger.find_letters(name), "dead letter", "letter", name, FIND) for name in names]
    return list({row["letter"]: row for row in found}.values())


def _order(
    here: Room,
    command: str,
    plan: Sequence[Row],
    ready: Sequence[Row],
    said: Said,
    wait: float,
    as_json: bool,
) -> None:
    """Send the orders for what is ready, then report on the whole plan. Raises Exit(1) unless all is as ordered.

    The minutes are of all of them together, and each tells its share.
    """
    if ready:
        now, saids = here.clock.now(), _shared(said, len(ready))
        here.deliver([letter_order(command, row, each, now) for row, each in zip(ready, saids, strict=True)])
    if not wait and len(ready) == len(plan):
        if as_json:
            print_json([{"id": row["letter"], "state": "SENT"} for row in ready])
        else:
            say(f"sent: {command} of {count(len(ready), 'letter')} by {shown(said.by)}")
        return
    with here.ledger() as ledger:
        looks = [_look(ledger, command, row) for row in plan]
        outcomes = here.watch(looks, wait)
    good = sum(outcome.good for outcome in outcomes)
    if as_json:
        names = ("id", "state", "text", "final", "good")
        print_json([{name: getattr(outcome, name) for name in names} for outcome in outcomes])
    else:
        for outcome in outcomes:
            say(f"{outcome.id}  {outcome.state:<9}  {line(outcome.text, 200)}")
        states = Counter(outcome.state for outcome in outcomes)
        say(", ".join(f"{number} {state}" for state, number in states.most_common()))
    if good < len(plan):
        raise typer.Exit(FAILED)


def _look(ledger: Queries, command: str, row: Row) -> Any:
    return lambda: letter_outcome(command, row, ledger.letter(row["letter"]))


def _shared(said: Said, among: int) -> list[Said]:
    if said.minutes is None:
        return [said] * among
    each, rest = divmod(said.minutes, among)
    return [replace(said, minutes=each + (n < rest)) for n in range(among)]
