"""`handrail check` and `handrail flow`: what flows and systems say, what is wrong with them, what they promise."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Column, Table

from handrail.contracts import Contracts
from handrail.errors import FlowError, Problem
from handrail.flow import Flow, Flows
from handrail.flow.failures import failures as answers_of
from handrail.flow.failures import promise, unanswered
from handrail.flow.lock import read_lock
from handrail.flow.lock import release as release_version
from handrail.flow.showing import resolved as resolved_of
from handrail.flow.showing import written
from handrail.settings import Settings

USAGE_ERROR = 2

app = typer.Typer(help="What flows say and promise: list, show, release, failures.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The flow's name.")]
Version = Annotated[int | None, typer.Option("--version", help="Which version; the newest when not given.")]


def check(as_json: Json = False) -> None:
    """Check every flow, rule table, mapping and system against each other and against the contracts.

    Says where, what is wrong and what to write instead; exits with 2 when something is. Example: handrail check
    """
    try:
        flows = _load()
        problems = _unanswered(flows)
    except FlowError as error:
        flows, problems = None, error.problems
    warnings = list(flows.warnings) if flows else []
    promises = _promises(flows) if flows else []
    if as_json:
        told = {"problems": problems, "warnings": warnings}
        plain = {key: [asdict(each) for each in found] for key, found in told.items()}
        typer.echo(json.dumps({"ok": not problems, **plain, "promises": promises}, indent=2))
    else:
        _tell(problems, warnings, promises)
    if problems:
        raise typer.Exit(USAGE_ERROR)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List every version of every flow.

    Example: handrail flow list --json
    """
    flows = _load()
    released = read_lock(_settings().flows, "flows.lock", [])
    rows = [_row(flow, (flow.name, flow.version) in released) for flow in _every(flows)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    name = Column("flow", no_wrap=True)
    table = Table(name, "version", "released", "owner", "trigger", "purpose", box=None, pad_edge=False)
    for row in rows:
        shown = {**row, "released": "yes" if row["released"] else "no"}
        table.add_row(*(str(shown[key]) for key in ("flow", "version", "released", "owner", "trigger", "purpose")))
    Console().print(table)


@app.command()
def show(
    name: Name,
    version: Version = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="With every default.")] = False,
    as_json: Json = False,
) -> None:
    """Show a flow as its file says it, or with everything that it leaves to defaults.

    Example: handrail flow show order-to-invoice --resolved
    """
    flow = _flow(_load(), name, version)
    data = resolved_of(flow) if resolved else written(flow)
    typer.echo(json.dumps(data, indent=2) if as_json else _yaml(data))


@app.command()
def release(name: Name, version: Version = None, as_json: Json = False) -> None:
    """Release a version: from now on its files must not change, because runs keep the version they started with.

    Example: handrail flow release order-to-invoice
    """
    flow = _flow(_load(), name, version)
    new = release_version(_settings().flows, flow.name, flow.version)
    if as_json:
        typer.echo(json.dumps({"flow": flow.name, "version": flow.version, "new": new}))
    else:
        typer.echo(f"{flow.name} v{flow.version} {'is released' if new else 'was released already'}")


@app.command()
def failures(name: Name, version: Version = None, as_json: Json = False) -> None:
    """Show what can go wrong at each step, and what happens then. Exits with 2 when something has no answer.

    Example: handrail flow failures order-to-invoice
    """
    flow = _flow(_load(), name, version)
    answers = answers_of(flow)
    if as_json:
        typer.echo(json.dumps([asdict(answer) for answer in answers], indent=2))
    else:
        table = Table("where", "failure", "what happens", box=None, pad_edge=False)
        for answer in answers:
            table.add_row(answer.place, answer.error_class, answer.what)
        Console().print(table)
    if unanswered(flow):
        raise typer.Exit(USAGE_ERROR)


def _settings() -> Settings:
    return Settings.from_env(os.environ)


def _load() -> Flows:
    settings = _settings()
    return Flows.load(settings.flows, settings.systems, Contracts.load(settings.contracts))


def _every(flows: Flows) -> list[Flow]:
    found = [flows.get(name, version) for name in flows.names() for version in flows.versions(name)]
    return [flow for flow in found if flow]


def _flow(flows: Flows, name: str, version: int | None) -> Flow:
    """The version asked for. Raises FlowError that says which there are."""
    newest = flows.newest(name)
    if version is None:
        return newest
    flow = flows.get(name, version)
    if flow is None:
        there = ", ".join(str(each) for each in flows.versions(name))
        raise FlowError([Problem(f"flows/{name}", None, f"there is no version {version}", f"there is {there}")])
    return flow


def _row(flow: Flow, released: bool) -> dict[str, Any]:
    return {
        "flow": flow.name,
        "version": flow.version,
        "released": released,
        "owner": flow.people.owner,
        "criticality": flow.definition.criticality,
        "trigger": flow.trigger.contract,
        "steps": [step.id for step in flow.steps],
        "result": flow.result,
        "purpose": flow.purpose,
    }


def _promises(flows: Flows) -> list[dict[str, Any]]:
    return [
        {"flow": flow.name, "version": flow.version, "step": step.id, "call": step.call, "promise": promise(flow, step)}
        for flow in _every(flows)
        for step in flow.steps
    ]


def _unanswered(flows: Flows) -> list[Problem]:
    return [
        Problem(
            f"flows/{flow.name}/v{flow.version}/flow.yaml", None, f"{empty.place}: {empty.error_class} has no answer"
        )
        for flow in _every(flows)
        for empty in unanswered(flow)
    ]


def _tell(problems: list[Problem], warnings: list[Problem], promises: list[dict[str, Any]]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for problem in problems:
        console.print(f"[bold red]wrong[/]    {_escaped(problem)}")
    for warning in warnings:
        console.print(f"[yellow]warning[/]  {_escaped(warning)}")
    for each in promises:
        console.print(f"[green]promise[/]  {each['flow']} v{each['version']} {each['step']}: {each['promise']}")
    if problems:
        console.print(f"{len(problems)} to be mended")


def _escaped(problem: Problem) -> str:
    return str(problem).replace("[", "\\[")


def _yaml(data: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)
    return text.rstrip()
