"""`python -m handrail_demo`, as `make demo` runs it.

The last line is `ACCOUNTED …`; the exit code is 0 only if every order is accounted for, none lost and none done twice.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated

import typer
from handrail.errors import HandrailError
from handrail.local.jaeger import Jaeger, Ports
from handrail.local.ports import free_port
from handrail.local.supervisor import Stack
from rich.console import Console

from handrail_demo.accounting import Accounts
from handrail_demo.breaks import names
from handrail_demo.demo import Demo, Plan
from handrail_demo.screen import Screen
from handrail_demo.workload import Recipe

_SHOWN = 20

LOOK_AROUND = """\
All is up. In another terminal, in this folder:

  export HANDRAIL_HOME={home} HANDRAIL_BOOTSTRAP={bootstrap}
  .venv/bin/handrail status
  .venv/bin/handrail measures
  .venv/bin/handrail runs list --state done --limit 5
  .venv/bin/handrail runs show <run or order number>
  .venv/bin/handrail dlq list
  .venv/bin/handrail tasks list --state all
  .venv/bin/handrail trace <run or order number>{traces}
  curl {sandbox}/_books/summary

How it goes, in a browser: {web}
Ctrl-C ends everything.
"""


def demo(
    break_: Annotated[
        str | None, typer.Option("--break", help=f"Run a deliberately broken build: {', '.join(names())}.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave all up afterwards, until Ctrl-C.")] = False,
    orders: Annotated[int, typer.Option(min=100, max=15_000, help="How many TPC-H orders.")] = 3_000,
    seed: Annotated[int, typer.Option(help="Of the workload's mix.")] = 1,
    home: Annotated[Path, typer.Option(help="Where its Kafka, state and books are.")] = Path(".handrail/demo"),
) -> None:
    """3,000 TPC-H orders become invoices while billing misbehaves and services are killed.

    Example: make demo, make demo BREAK=dedupe, make demo KEEP=1
    """
    screen = Screen(Console(stderr=True))
    plan = Plan(
        project=Path.cwd(),
        home=home.absolute(),
        port=free_port(),
        sandbox_port=free_port(),
        orders=orders,
        recipe=Recipe(seed=seed),
        patch=break_,
        jaeger=_jaeger(screen, home.absolute()) if keep else None,
        page=keep,
    )
    try:
        accounts = _run(plan, screen, keep)
    except HandrailError as error:
        Console(stderr=True).print(f"[bold red]the demo failed:[/] {error}", highlight=False)
        raise typer.Exit(1) from error
    raise typer.Exit(0 if accounts.holds else 1)


def _run(plan: Plan, screen: Screen, keep: bool) -> Accounts:
    one = Demo(plan, os.environ, screen)
    screen.say(f"starting Kafka, the sandbox and the services{f', broken by {plan.patch}' if plan.patch else ''}")
    with one.stack() as stack:
        accounts = one.run(stack)
        for wrong in accounts.wrong[:_SHOWN]:
            screen.say(f"wrong: {wrong.name}: {wrong.why}")
        if len(accounts.wrong) > _SHOWN:
            screen.say(f"wrong: {len(accounts.wrong) - _SHOWN} more")
        typer.echo(accounts.line())
        if keep:
            _leave_up(stack, plan)
    return accounts


def _jaeger(screen: Screen, home: Path) -> Jaeger | None:
    """To look at traces afterwards; where it has to be built, that is some minutes, once."""
    Jaeger.clear_away(os.environ, home / "jaeger")
    try:
        return Jaeger.find(os.environ, Ports.choose(None), screen.say)
    except HandrailError as error:
        screen.say(f"without traces: {error}")
        return None


def _leave_up(stack: Stack, plan: Plan) -> None:
    typer.echo(
        LOOK_AROUND.format(
            home=plan.home,
            bootstrap=stack.bootstrap,
            sandbox=f"http://127.0.0.1:{plan.sandbox_port}",
            web=stack.state().web,
            traces="" if plan.jaeger is not None else "   (there is no Jaeger here)",
        ),
        err=True,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stack.begin_stop())
    stack.wait()


if __name__ == "__main__":
    typer.run(demo)
