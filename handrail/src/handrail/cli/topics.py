"""`handrail topics list | provision`: what deploy/kafka and the flows ask for, and making it so."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from handrail.errors import Unreachable
from handrail.kafka.admin import connect
from handrail.kafka.provision import load_topology, partition_counts, provision
from handrail.settings import Settings

app = typer.Typer(help="Kafka topics: list what is declared, make what is missing.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command("list")
def list_topics(as_json: JsonOption = False) -> None:
    """List the declared topics, and which of them there are.

    Example: handrail topics list --json
    """
    settings = Settings.from_env(os.environ)
    wanted = load_topology(settings)
    have = _present(settings.bootstrap)
    if as_json:
        rows = [
            {
                "name": topic.name,
                "kind": topic.kind,
                "partitions": topic.partitions,
                "present": None if have is None else have.get(topic.name),
                "config": dict(topic.config),
            }
            for topic in wanted.topics
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("topic", "kind", "partitions", "present", "settings"):
        table.add_column(title, overflow="fold")
    for topic in wanted.topics:
        present = "?" if have is None else str(have.get(topic.name, "no"))
        config = " ".join(f"{name}={value}" for name, value in topic.config.items())
        table.add_row(topic.name, topic.kind, str(topic.partitions), present, config)
    Console(highlight=False).print(table)
    if have is None:
        typer.echo(f"Kafka does not answer at {settings.bootstrap}, so what is present is not known", err=True)


@app.command("provision")
def provision_topics(as_json: JsonOption = False) -> None:
    """Create missing topics and starting offsets; running it again changes nothing. Refuses a changed partition count.

    Example: handrail topics provision
    """
    settings = Settings.from_env(os.environ)
    wanted = load_topology(settings)
    report = provision(settings.bootstrap, wanted)
    if as_json:
        made = {"created": report.created, "changed": report.changed, "offsets": dict(report.offsets)}
        typer.echo(json.dumps(made, indent=2))
        return
    typer.echo(
        f"{len(wanted.topics)} topics: {len(report.created)} created, {len(report.changed)} with settings changed; "
        f"{sum(report.offsets.values())} starting offsets committed"
    )


def _present(bootstrap: str) -> dict[str, int] | None:
    try:
        return partition_counts(connect(bootstrap, within_s=3.0))
    except Unreachable:
        return None
