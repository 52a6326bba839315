"""`python -m handrail_sandbox`: serve the outside systems, or read their books."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from handrail_sandbox.books import Books
from handrail_sandbox.errors import BooksError, PortTakenError
from handrail_sandbox.server import log_to_stderr, run

USAGE_ERROR = 2

Db = Annotated[
    Path,
    typer.Option(envvar="HANDRAIL_SANDBOX_DB", help="The SQLite file that holds the books; made where there is none."),
]
Port = Annotated[
    int, typer.Option(envvar="HANDRAIL_SANDBOX_PORT", min=0, max=65535, help="Port on loopback; 0 takes a free one.")
]
DB = Path(".handrail/sandbox.sqlite")

app = typer.Typer(
    help="Outside systems to try things on: a shop, billing and a CRM, with books of their own and faults on order.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def serve(
    port: Port = 18080,
    db: Db = DB,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Log JSON lines.")] = False,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Example: python -m handrail_sandbox serve --port 18080 --db .handrail/sandbox.sqlite
    """
    log_to_stderr(as_json=json_logs)
    run(port, db)


@app.command()
def summary(
    db: Db = DB,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what was called and what really happened; needs no server.

    Example: python -m handrail_sandbox summary --db .handrail/sandbox.sqlite
    """
    with Books(db) as books:
        told = books.summary()
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    table = Table("system", "calls", "faults", "effects", "done twice")
    for system, numbers in told["systems"].items():
        faults = ", ".join(f"{kind} {count}" for kind, count in numbers["faults"].items())
        effects = ", ".join(f"{kind} {effect['count']}" for kind, effect in numbers["effects"].items())
        doubled = sum(effect["doubled"] for effect in numbers["effects"].values())
        table.add_row(system, str(numbers["calls"]), faults, effects, str(doubled))
    Console().print(table)


def main() -> None:
    """Run the command line; errors that a person can mend are told plainly."""
    try:
        app()
    except (PortTakenError, BooksError) as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {error}", highlight=False)
        sys.exit(USAGE_ERROR)


if __name__ == "__main__":
    main()
