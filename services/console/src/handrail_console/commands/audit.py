"""`handrail audit`: who ordered what, and whether it was done."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from handrail_console.commands.room import JsonOption, only_one, print_json, room, say, show_table, start_of
from handrail_console.words import line, moment

HERE = "handrail runs list shows the last ones"
_CAME = {"replay": "sent back to its stage", "discard": "discarded", "review": "noted"}
_HANDED_ON = "handed to its run"


def audit(
    context: typer.Context,
    run: Annotated[
        str | None, typer.Option(help="Only about this run: its id, the beginning of it, or its key.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Only of this person.")] = None,
    since: Annotated[str, typer.Option(help="Ordered since: 12h, 90d, or a day (2026-01-31, UTC).")] = "90d",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """Show what people ordered (replays, discards, decisions, reviews), and what was refused and why; the newest first.

    How a replay went, `handrail dlq show` says; how a run went on after a decision, `handrail runs show`.

    Example: handrail audit --by ada@example.com --since 7d
    """
    here = room(context)
    start = start_of(since, here.clock.now())
    with here.ledger() as ledger:
        about = only_one(ledger.find_runs(run), "run", "run", run, HERE)["run"] if run else None
        found = ledger.audit(run=about, by=by, since=start, limit=limit + 1)
        here.warn(ledger)
    rows, more = found[:limit], len(found) > limit
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("nobody ordered anything in that time")
        return
    show_table(
        ["WHEN", "WHO", "WHAT", "OF", "CAME OF IT", "MINUTES", "WHY"],
        [
            [
                moment(row["at"]),
                line(row["by"], 40),
                row["what"],
                _about(row),
                f"refused: {line(row['refused'], 80)}" if row["refused"] else _CAME.get(row["what"], _HANDED_ON),
                row["minutes"],
                line(row["reason"] or "", 80),
            ]
            for row in rows
        ],
    )
    if more:
        say(f"… and more: --limit {limit * 10} shows them")


def _about(row: dict[str, Any]) -> str:
    for name in ("letter", "task", "flow"):
        if row[name]:
            return f"{name} {line(row[name], 80)}"
    return "-"
