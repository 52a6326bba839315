"""`handrail contracts`: list, lock and check the contracts of a project."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from handrail.contracts import Contract, Contracts
from handrail.contracts.compatibility import incompatibilities
from handrail.contracts.lock import differences, write_lock
from handrail.contracts.reading import read_folder
from handrail.contracts.samples import find_samples, problem_of, without_pass
from handrail.settings import Settings

app = typer.Typer(help="What messages look like: list, lock and check contracts/.", no_args_is_help=True)


def _folder() -> Path:
    return Settings.from_env(os.environ).contracts


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """List every contract with its id and its critical fields.

    Example: handrail contracts list --json
    """
    contracts = read_folder(_folder())
    if as_json:
        typer.echo(json.dumps([_described(contract) for contract in contracts], indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for title, whole in (("contract", True), ("id", True), ("critical fields", False), ("what it says", False)):
        table.add_column(title, no_wrap=whole)
    for contract in contracts:
        critical = " ".join(field.name for field in contract.fields if field.critical)
        table.add_row(contract.name, str(contract.id), critical, escape(contract.schema["doc"]))
    Console().print(table)


def _described(contract: Contract) -> dict[str, object]:
    return {
        "name": contract.name,
        "id": contract.id,
        "doc": contract.schema["doc"],
        "fingerprint": contract.fingerprint,
        "fields": [
            {
                "name": field.name,
                "type": field.type,
                "doc": field.doc,
                "critical": field.critical,
                "valid": field.valid,
                "missing": field.missing,
                "pii": field.pii,
            }
            for field in contract.fields
        ],
    }


@app.command()
def lock(
    force: Annotated[
        bool,
        typer.Option("--force", help="Also when a released schema changed or is gone: no message of it may exist."),
    ] = False,
) -> None:
    """Write contracts.lock: the id of each contract, fixed for ever.

    A released schema that changed is refused; write the change as the next version.

    Example: handrail contracts lock
    """
    contracts = read_folder(_folder())
    Contracts(contracts)  # the rules must compile before anything is released
    changes = write_lock(_folder(), contracts, force=force)
    for change in changes:
        typer.echo(change)
    typer.echo(f"contracts.lock: {len(contracts)} contracts, {len(changes)} changed")


@app.command()
def check() -> None:
    """Check the files, the lock, the compatibility of versions, and every sample.

    Example: handrail contracts check
    """
    folder = _folder()
    read = read_folder(folder)
    contracts = Contracts(read)
    samples = find_samples(folder)
    problems = differences(folder, read) + incompatibilities(read) + without_pass(contracts, samples)
    problems += [problem for sample in samples if (problem := problem_of(contracts, sample))]
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        typer.echo(f"{len(problems)} problems", err=True)
        raise typer.Exit(1)
    typer.echo(f"{len(read)} contracts and {len(samples)} samples are in order")
