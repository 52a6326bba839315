"""The `handrail` command. Each room brings its own commands by an entry point of the group `handrail.commands`."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import entry_points

import typer
from rich.console import Console
from rich.markup import escape

from handrail.errors import ConfigError, HandrailError, Unreachable

USAGE_ERROR = 2
FAILED = 1


def build(asked: str | None = None) -> typer.Typer:
    """Gather the commands of every installed room, in alphabetical order; only that which is asked for, if it is one.

    Each room is loaded with what it needs (a database, a client of Kafka), which is most of the time that a command takes.
    """
    app = typer.Typer(
        name="handrail",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_handrail)  # or Typer takes a single command for the whole
    every = entry_points(group="handrail.commands")
    for entry in sorted(every.select(name=asked) if asked in every.names else every, key=lambda entry: entry.name):
        command = entry.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(name=entry.name)(command)
    return app


def _handrail() -> None:
    """Run automations between systems so that they hold on bad days."""


def main() -> None:
    """Run the command line; errors that a person can mend are told plainly, without a traceback."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # a command does its work without a collector, too
    try:
        build(asked=next(iter(sys.argv[1:]), None))()
    except (ConfigError, Unreachable) as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(USAGE_ERROR)
    except HandrailError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]failed:[/] {escape(str(error))}", highlight=False)
        sys.exit(FAILED)
