"""`handrail tasks`: what waits for a person."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from handrail_console.commands.room import (
    FAILED,
    WAIT_S,
    ByOption,
    JsonOption,
    MinutesOption,
    Room,
    WaitOption,
    fail,
    only_one,
    print_json,
    room,
    say,
    show_table,
    user,
)
from handrail_console.orders import Said, task_order
from handrail_console.outcomes import task_outcome
from handrail_console.story import task_steps
from handrail_console.words import line, moment, short_length, shown, span

app = typer.Typer(help="What waits for a person.", no_args_is_help=True)
FIND = "handrail tasks list --state all shows every task"
Row = dict[str, Any]
TaskArgument = typer.Argument(help="The task's id, or the beginning of it.")


@app.command("list")
def list_tasks(
    context: typer.Context,
    state: Annotated[list[str] | None, typer.Option(help="open (the default), approved, rejected, done, all.")] = None,
    flow: Annotated[str | None, typer.Option(help="Only this flow.")] = None,
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """List tasks; what is due first comes first.

    Example: handrail tasks list --flow order-to-invoice
    """
    here, states = room(context), state or ["open"]
    with here.ledger() as ledger:
        rows = ledger.tasks(() if "all" in states else states, flow)
    if as_json:
        print_json([_told(row) for row in rows])
        return
    if not rows:
        say("no task is so" if flow or states != ["open"] else "nothing waits for a person")
        return
    length, now = short_length(row["task"] for row in rows), here.clock.now()
    show_table(
        ["TASK", "KIND", "STATE", "WHO", "DUE", "WHAT"],
        [
            [row["task"][:length], row["kind"], row["state"], line(row["group"], 40), _due(row, now), row["title"]]
            for row in rows
        ],
    )


@app.command("show")
def show_task(
    context: typer.Context, task: Annotated[str, TaskArgument], as_json: Annotated[bool, JsonOption] = False
) -> None:
    """Show a task with all that a person needs to decide.

    Example: handrail tasks show 3f2a91c0
    """
    here = room(context)
    row = _find(here, task)
    if as_json:
        print_json(_told(row))
        return
    say(shown(row["title"]))
    say("")
    for name, value in (
        ("Task", row["task"]),
        ("State", row["state"] + (f" by {row['decided_by']}" if row["decided_by"] else "")),
        ("Kind", "a yes or a no" if row["kind"] == "approval" else "work to be done by hand"),
        ("Who", row["group"]),
        ("Due", f"{moment(row['due_at'])} ({_due(row, here.clock.now())})" if row["due_at"] else "-"),
        ("Flow", f"{row['flow']} v{row['version']}, step {row['step']}, business key {row['route']}"),
        ("Run", f"{row['run']}   (handrail runs show {row['run']})"),
        ("Runbook", row["runbook"] or "-"),
        ("Reason", row["reason"] or "-"),
    ):
        say(f"{name:<9}{shown(value)}")
    say("")
    say(shown(json.dumps(_context(row), indent=2, ensure_ascii=False)))
    if row["state"] == "open":
        say("")
        say("What to do next:")
        for step in task_steps(row):
            say(f"  {step}")


@app.command()
def approve(
    context: typer.Context,
    task: Annotated[str, TaskArgument],
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
    minutes: Annotated[int | None, MinutesOption] = None,
    by: Annotated[str | None, ByOption] = None,
    wait: Annotated[float, WaitOption] = WAIT_S,
) -> None:
    """Say yes: the run goes on.

    Example: handrail tasks approve 3f2a91c0
    """
    _decide(room(context), task, "approve", Said(user(by), reason, minutes), wait)


@app.command()
def reject(
    context: typer.Context,
    task: Annotated[str, TaskArgument],
    reason: Annotated[str, typer.Option(help="Why; the run's story will tell it.")],
    minutes: Annotated[int | None, MinutesOption] = None,
    by: Annotated[str | None, ByOption] = None,
    wait: Annotated[float, WaitOption] = WAIT_S,
) -> None:
    """Say no, or give manual work up.

    Example: handrail tasks reject 3f2a91c0 --reason "credit is used up"
    """
    _decide(room(context), task, "reject", Said(user(by), reason, minutes), wait)


@app.command()
def done(
    context: typer.Context,
    task: Annotated[str, TaskArgument],
    reason: Annotated[str | None, typer.Option(help="What was done.")] = None,
    minutes: Annotated[int | None, MinutesOption] = None,
    by: Annotated[str | None, ByOption] = None,
    wait: Annotated[float, WaitOption] = WAIT_S,
) -> None:
    """Say that the work was finished by hand; no machine will do it again.

    Example: handrail tasks done 3f2a91c0 --reason "invoice 88 written in billing" --minutes 12
    """
    _decide(room(context), task, "done", Said(user(by), reason, minutes), wait)


def _decide(here: Room, task: str, verdict: str, said: Said, wait: float) -> None:
    row = _find(here, task)
    if said.reason is not None and not said.reason.strip():
        raise typer.BadParameter("it is empty; write why", param_hint="--reason")
    if row["state"] != "open":
        raise fail(f"the task is closed: {row['state']} by {shown(row['decided_by'] or 'nobody')}")
    if verdict == "approve" and row["kind"] == "manual":
        raise fail("this is work to be done by hand, not a question", "\n".join(task_steps(row)))
    here.deliver([task_order(verdict, row, said, here.clock.now())])
    if not wait:
        say(f"sent: {verdict} {row['task']} by {shown(said.by)}")
        return
    with here.ledger() as ledger:
        [outcome] = here.watch([lambda: task_outcome(verdict, row, ledger.task(row["task"]))], wait)
    say(f"{row['task']}  {outcome.state}  {shown(outcome.text)}")
    if not outcome.good:
        raise typer.Exit(FAILED)


def _find(here: Room, task: str) -> Row:
    with here.ledger() as ledger:
        return only_one(ledger.find_tasks(task), "task", "task", task, FIND)


def _told(row: Row) -> Row:
    return {**row, "context": _context(row)}


def _context(row: Row) -> object:
    try:
        return json.loads(row["context"])
    except ValueError:
        return row["context"]


def _due(row: Row, now: int) -> str | None:
    if row["due_at"] is None:
        return None
    left = row["due_at"] - now
    return f"in {span(left)}" if left >= 0 else f"{span(-left)} late"
