"""`python -m handrail_chaos`, as `make chaos` runs it.

The last line is `CHAOS …`; the exit code is 0 only when every check is clean, enough was acknowledged and every fault point
of every stage was hit.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Annotated

import typer
from handrail.errors import HandrailError
from rich.console import Console

from handrail_chaos.report import Report
from handrail_chaos.run import Run, planned
from handrail_chaos.schedule import SLICE_S
from handrail_chaos.screen import Screen
from handrail_chaos.world import RATE, Asked

_SHOWN = 12

app = typer.Typer(
    help="A storm of faults over all services, judged from outside.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def main() -> None:
    """A storm of faults over all services, judged from outside."""


@app.command()
def run(
    seed: Annotated[
        int | None, typer.Option(help="Of the schedule, the input and the fault points. Default: any.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.5, help="About how long all of it takes.")] = 4.0,
    brokers: Annotated[int, typer.Option(min=1, max=3, help="1, or 3 with replication 3.")] = 1,
    events: Annotated[
        int,
        typer.Option(min=0, help="The storm ends when so many records were published, if its time is not up before."),
    ] = 0,
    rate: Annotated[float, typer.Option(min=1.0, help="Records a second, as far as the stages keep up.")] = RATE,
    burst_s: Annotated[
        float,
        typer.Option("--burst", min=0.0, max=1.0, help="Publish so many seconds' worth at a time: larger batches."),
    ] = 0.0,
    calls: Annotated[int, typer.Option(min=0, help="Calls in flight at each system; 0: as its file says.")] = 0,
    slice_s: Annotated[
        float, typer.Option("--slice", min=5.0, help="About how long a slice of two to four faults is, in seconds.")
    ] = SLICE_S,
    mutant: Annotated[Path | None, typer.Option(help="A patch that is applied to a copy of the code first.")] = None,
    home: Annotated[Path, typer.Option(help="Where its Kafka, state, books and logs are.")] = Path(".handrail/chaos"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep all of it, also when all is right.")] = False,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write a report to this file.")] = None,
    show_plan: Annotated[bool, typer.Option("--plan", help="Only print the schedule.")] = False,
) -> None:
    """Break everything for some minutes while orders become invoices, heal, and compare with the books.

    Example: python -m handrail_chaos run --seed 7 --minutes 4
    """
    chosen = random.randrange(1, 1_000_000) if seed is None else seed
    asked = Asked(
        project=Path.cwd(), home=home.absolute(), seed=chosen, minutes=minutes, brokers=brokers, events=events,
        rate=rate, burst_s=burst_s, calls=calls, slice_s=slice_s, mutant=mutant,
    )  # fmt: skip
    if show_plan:
        for line in planned(asked, network=True).lines():
            typer.echo(line)
        return
    console = Console(stderr=True)
    try:
        report = Run(asked, Screen(console, asked.home / "chaos.txt")).run()
    except HandrailError as error:
        console.print(f"[bold red]the run failed[/] (seed {chosen}): {error}", highlight=False)
        console.print(f"its logs are in {asked.home}", highlight=False)
        raise typer.Exit(2) from error
    _tell(report, asked, console)
    if as_json is not None:
        as_json.parent.mkdir(parents=True, exist_ok=True)
        as_json.write_text(json.dumps(report.json(), indent=2, default=str) + "\n", encoding="utf-8")
    if report.holds and not keep:
        for kafka in asked.home.glob("kafka-*"):
            shutil.rmtree(kafka / "data", ignore_errors=True)
    typer.echo(report.line())
    raise typer.Exit(0 if report.holds else 1)


@app.command()
def mutants(
    only: Annotated[str | None, typer.Option(help="Only this one, by its name.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Run the kept broken builds in fixed scenarios, and say by which check each one was caught.

    Example: python -m handrail_chaos mutants --only dedupe-off
    """
    from handrail_chaos.mutants import main  # only here: a storm needs none of it

    raise typer.Exit(main(only, as_json=as_json))


def _tell(report: Report, asked: Asked, console: Console) -> None:
    """The figures; and when something is wrong, what, where it was seen, and how to see it again."""
    (asked.home / "report.json").write_text(json.dumps(report.json(), indent=2, default=str), encoding="utf-8")
    for title, figures in (("faults", report.faults), ("seen", report.struck), ("ends", report.exits)):
        told = ", ".join(f"{name} {count}" for name, count in figures.items() if not name.startswith("hits of"))
        console.print(f"[bold]{title}[/]  {told}", highlight=False, soft_wrap=True)
    console.print(f"[bold]ended[/]  {report.verdict.ended}", highlight=False, soft_wrap=True)
    console.print(f"[bold]seconds[/]  {dict(report.seconds)}", highlight=False, soft_wrap=True)
    if report.holds:
        return
    for why in report.failures():
        console.print(f"[bold red]wrong[/]  {why}", highlight=False, soft_wrap=True)
    wrongs = report.wrongs()
    for name, wrong in wrongs[:_SHOWN]:
        console.print(f"  {name}  {wrong.name}: {wrong.why}", highlight=False, soft_wrap=True)
    if len(wrongs) > _SHOWN:
        console.print(f"  and {len(wrongs) - _SHOWN} more, all in report.json", highlight=False)
    again = f"make chaos SEED={report.seed} MINUTES={asked.minutes:g} BROKERS={asked.brokers}"
    if asked.events:
        again += f" EVENTS={asked.events}"
    if asked.rate != RATE:
        again += f" RATE={asked.rate:g}"
    if asked.burst_s:
        again += f" BURST={asked.burst_s:g}"
    if asked.calls:
        again += f" CALLS={asked.calls}"
    if asked.slice_s != SLICE_S:
        again += f" SLICE={asked.slice_s:g}"
    console.print(
        f"seed {report.seed}; logs, Kafka, state and books are in {asked.home}; the same storm again: {again}",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    app()
