"""`handrail publish`: events from a file of JSON lines onto a topic, by contract."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from handrail import envelope, telemetry
from handrail.contracts import Contract, Contracts, normalised_name
from handrail.contracts.jsonlines import BadLine, Line, key_field, read_lines
from handrail.errors import ConfigError
from handrail.identity import output_id
from handrail.kafka.publishing import Acknowledged, Outgoing, publish_records, publisher, require_topic
from handrail.message import Headers
from handrail.settings import Settings
from handrail.telemetry import Telemetry

SHOWN = 20


@dataclass(frozen=True, slots=True)
class _Sent:
    line: int
    key: str | None
    context: str
    at_ns: int


def publish(
    contract: Annotated[str, typer.Argument(help="The contract, such as orders/order-accepted.v1.")],
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Events, one JSON object a line.")],
    topic: Annotated[str | None, typer.Option(help="Default: ingest.<domain>.<event>.")] = None,
    key: Annotated[str | None, typer.Option(help="The field that is the key. Default: the contract's first.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Events a second, at most.")] = None,
    manifest: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write what was acknowledged there, as JSON lines.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad lines out instead of sending nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the result as JSON.")] = False,
) -> None:
    """Publish the events of a file and wait until Kafka has acknowledged each.

    A line that is not JSON or breaks the contract is told with file and line; then nothing is sent, unless --skip-bad.

    Example: handrail publish orders/order-accepted.v1 orders.jsonl --manifest sent.jsonl
    """
    settings = Settings.from_env(os.environ)
    contracts = Contracts.load(settings.contracts)
    found = contracts[normalised_name(contract)]
    name = key_field(found, key)
    good, bad = _sift(contracts, found, file, name)
    _tell(bad)
    if bad and not skip_bad:
        typer.echo(f"{len(bad)} bad lines; nothing was sent. Mend them, or leave them out with --skip-bad", err=True)
        raise typer.Exit(1)
    target = topic or found.topic
    require_topic(settings.bootstrap, target)
    begun = time.monotonic()
    publishing = _Publishing(found, target, read_lines(contracts, found, file, name))
    count = publishing.run(settings.bootstrap, rate, manifest, good)
    seconds = time.monotonic() - begun
    if as_json:
        typer.echo(json.dumps({"published": count, "refused": len(bad), "topic": target, "seconds": round(seconds, 3)}))
    else:
        typer.echo(f"published={count} refused={len(bad)} topic={target} seconds={seconds:.1f}")


def _sift(contracts: Contracts, contract: Contract, file: Path, key: str) -> tuple[int, list[BadLine]]:
    """How many lines are good, and the bad ones. The lines are read again to be sent: none is held in memory."""
    good, bad = 0, []
    for line in read_lines(contracts, contract, file, key):
        if isinstance(line, BadLine):
            bad.append(line)
        else:
            good += 1
    return good, bad


def _tell(bad: list[BadLine]) -> None:
    for line in bad[:SHOWN]:
        typer.echo(str(line), err=True)
    if len(bad) > SHOWN:
        typer.echo(f"… and {len(bad) - SHOWN} more", err=True)


class _Publishing:
    """One file on its way to one topic."""

    def __init__(self, contract: Contract, topic: str, lines: Iterator[Line | BadLine]) -> None:
        self._contract = contract
        self._topic = topic
        self._lines = lines
        self._telemetry = Telemetry.from_env("publish", os.environ)
        self._sent: dict[int, _Sent] = {}

    def run(self, bootstrap: str, rate: float | None, manifest: Path | None, total: int) -> int:
        """Publish and give how many were acknowledged."""
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with (
            _opened(manifest) as out,
            Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ):
            task = progress.add_task("acknowledged", total=total)

            def acknowledged(record: Acknowledged) -> None:
                self._note(record, out)
                progress.advance(task)

            try:
                return publish_records(publisher(bootstrap), self._topic, self._records(), acknowledged, rate=rate)
            finally:
                self._telemetry.shutdown()

    def _records(self) -> Iterator[Outgoing]:
        index = 0
        for line in self._lines:
            if isinstance(line, BadLine):
                continue
            context = self._telemetry.child(None) if self._telemetry.on else None
            self._sent[index] = _Sent(line.number, line.key, context or "", time.time_ns())
            yield self._key(line), line.value, self._headers(line, context)
            index += 1

    def _key(self, line: Line) -> bytes | None:
        return None if line.key is None else line.key.encode()

    def _headers(self, line: Line, context: str | None) -> Headers:
        return envelope.write_public(
            id=output_id(line.digest, "publish", line.number),
            type=self._contract.name,
            source="/handrail/publish",
            subject=line.key or "",
            time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            traceparent=context,
        )

    def _note(self, record: Acknowledged, out: TextIO | None) -> None:
        sent = self._sent.pop(record.index)
        if out is not None:
            entry = {
                "line": sent.line,
                "key": sent.key,
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
            }
            out.write(json.dumps(entry, ensure_ascii=False) + "\n")
        if sent.context:
            self._telemetry.record(
                stage=record.topic,
                operation="publish",
                parent=None,
                context=sent.context,
                start_ns=sent.at_ns,
                end_ns=time.time_ns(),
                attributes={
                    telemetry.DESTINATION: record.topic,
                    telemetry.PARTITION: str(record.partition),
                    telemetry.OFFSET: record.offset,
                },
            )


def _opened(manifest: Path | None) -> TextIO | nullcontext[None]:
    if manifest is None:
        return nullcontext()
    try:
        return manifest.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--manifest {manifest}: can't be written: {error.strerror}") from error
