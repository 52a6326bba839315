"""`handrail alerts`: what fires, and whether anybody watches."""

from __future__ import annotations

from typing import Annotated

import typer

from handrail_console.commands.room import JsonOption, print_json, room, say
from handrail_console.words import moment, shown, span


def alerts(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """Show the alerts that fire: what happened, what it means, what to do. Exit code 1 when monitor does not watch.

    Example: handrail alerts --all
    """
    here = room(context)
    now = here.clock.now()
    with here.ledger() as ledger:
        found, monitor, stands = ledger.alerts(ended=every), ledger.monitor(now), ledger.standing(now, None)
    if as_json:
        print_json({"alerts": found, "monitor": {"silent": monitor.silent, "heard_at": monitor.heard_at}})
    else:
        for warning in (stands.warning(), None if stands.silent else monitor.warning()):
            if warning:
                say(f"Warning: {warning}")
        for one in found:
            over = one["state"] != "FIRING"
            head = f"over after {span(one['at'] - one['since'])}" if over else one["severity"]
            say(f"{head}  {shown(one['rule'])}: {shown(one['subject'])}, since {moment(one['since'])}")
            say(f"  What happened  {shown(one['what'])}")
            if not over:
                say(f"  What it means  {shown(one['means'])}")
                say(f"  What to do     {shown(one['todo'])}")
            say(f"  Owner          {shown(one['owner'] or 'nobody is named')}; {shown(one['runbook'] or 'no runbook')}")
            say("")
        if not found:
            say("no alert fires" if not every else "there was no alert")
    if monitor.silent:
        raise typer.Exit(1)
