"""`handrail runs`: what the automations did, in words."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from handrail_console.commands.room import JsonOption, Room, only_one, print_json, room, say, show_table
from handrail_console.queries import Queries
from handrail_console.story import Story, doubts, tell
from handrail_console.words import clock, line, moment, short_length, shown, span

app = typer.Typer(help="What the automations did.", no_args_is_help=True)
FIND = "handrail runs list shows the last ones; an id, its beginning or a business key finds one"
Row = dict[str, Any]


@app.command("list")
def list_runs(
    context: typer.Context,
    state: Annotated[list[str] | None, typer.Option(help="Only this state; may be repeated.")] = None,
    flow: Annotated[str | None, typer.Option(help="Only this flow.")] = None,
    failing: Annotated[
        bool,
        typer.Option("--failing", help="Only those whose call fails and is tried again, the first before the others."),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """List runs, the last that moved first.

    Example: handrail runs list --state failed --state waiting --limit 50
    """
    here = room(context)
    with here.ledger() as ledger:
        rows = ledger.runs(state or (), flow, limit, failing=failing)
        in_all = ledger.count_runs(state or (), flow, failing=failing)
        here.warn(ledger)
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("no runs yet" if not (state or flow or failing) else "no run is so")
        return
    length, now = short_length(row["run"] for row in rows), here.clock.now()
    show_table(
        ["RUN", "FLOW", "KEY", "STATE", "STEP", "SINCE", "WHY"],
        [
            [
                row["run"][:length],
                f"{row['flow']} v{row['version']}",
                line(row["route"], 40),
                row["state"],
                row["step"],
                span(now - row["updated_at"]),
                line(row["reason"] or "", 60),
            ]
            for row in rows
        ],
    )
    if in_all > len(rows):
        say(f"… and {in_all - len(rows)} more: --limit {in_all} shows all")


@app.command("show")
def show_run(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run's id, the beginning of it, or its business key.")],
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """Tell the story of one run, and what to do next if it is stuck.

    Example: handrail runs show 4711
    """
    here = room(context)
    with here.ledger() as ledger:
        row = only_one(ledger.find_runs(run), "run", "run", run, FIND)
        story, parts = _story(here, ledger, row)
    if as_json:
        print_json(
            {
                **row,
                **parts,
                "story": [{"at": one.at, "text": one.text} for one in story.told],
                "standing": story.standing,
                "next": list(story.next_steps),
            }
        )
        return
    _print(row, parts, story)


def _story(here: Room, ledger: Queries, row: Row) -> tuple[Story, dict[str, list[Row]]]:
    transitions = ledger.transitions(row["run"])
    letters = ledger.letters_of(row["run"])
    tasks = ledger.tasks_of(row["run"])
    story = tell(row, transitions, letters, tasks, here.clock.now())
    brief = ("letter", "state", "generation", "failure_class", "stage", "step", "message", "failed_at")
    return story, {
        "transitions": transitions,
        "letters": [{name: letter[name] for name in brief} for letter in letters],
        "tasks": tasks,
    }


def _print(row: Row, parts: dict[str, list[Row]], story: Story) -> None:
    say(f"Run {row['run']} of {row['flow']} v{row['version']}, business key {line(row['route'], 80)}")
    say(f"Began {moment(row['started_at'])}; times below are UTC.")
    say("")
    for one in story.told:
        say(f"{clock(one.at)}  {shown(one.text)}")
    say(f"{clock(row['updated_at'])}  {story.standing}")
    say("")
    for letter in parts["letters"]:
        say(f"Dead letter  {letter['letter']}  {letter['state']}, {letter['failure_class']}: {line(letter['message'])}")
    for task in parts["tasks"]:
        by = f" by {line(task['decided_by'], 60)}" if task["decided_by"] else ""
        say(f"Task         {task['task']}  {task['state']}{by}: {line(task['title'])}")
    if row["trace"]:
        say(f"Trace        {row['trace']}")
    for doubt in doubts(row, parts["transitions"]):
        say(f"Warning      {doubt}")
    if story.next_steps:
        say("What to do next:")
        for step in story.next_steps:
            say(f"  {step}")
