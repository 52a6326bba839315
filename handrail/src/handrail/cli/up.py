"""`handrail up | down | status | logs`: the local stack from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from handrail.errors import HandrailError
from handrail.kafka.admin import wait_until_answers
from handrail.local.asking import ask_all
from handrail.local.jaeger import Jaeger, Ports
from handrail.local.logs import follow, last_lines, log_path
from handrail.local.services import Program, Runs, choose
from handrail.local.state import RUNNING, UP, AlreadyRunning, ProcessState, StackFolder, StackState, unusable
from handrail.local.supervisor import Stack
from handrail.settings import DEFAULT_PORT, Settings

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_DOWN_WITHIN_S = 45.0
_FAILED = 1
_SETTLE_S = 1.5  # so that what ends at once, over a wrong setting, is told with the ready line


def up(
    port: Annotated[int | None, typer.Option(help="Kafka's port here. Default: that of HANDRAIL_BOOTSTRAP.")] = None,
    detach: Annotated[bool, typer.Option(help="Return when all is up; `handrail down` ends it.")] = False,
    services: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    with_sandbox: Annotated[bool, typer.Option(help="Also the sandbox: outside systems to try things on.")] = False,
    with_jaeger: Annotated[
        bool, typer.Option("--jaeger", help="Also a Jaeger: every service sends its spans there (handrail trace).")
    ] = False,
    quiet: Annotated[bool, typer.Option(help="Do not show the services' logs here.")] = False,
) -> None:
    """Start Kafka, make the topics, run every service; Ctrl-C ends all.

    If HANDRAIL_BOOTSTRAP names another machine, the Kafka there is used and none is started. Jaeger is run by its image
    where Docker answers, else by a `jaeger` on the PATH, else it is built, once, from its Go module.

    Example: handrail up --with-sandbox --jaeger
    """
    settings = Settings.from_env(os.environ)
    names = [name.strip() for name in services.split(",") if name.strip()] if services is not None else None
    chosen: tuple[Runs, ...] = choose(names, sandbox=with_sandbox)
    console = Console(highlight=False, soft_wrap=True)
    jaeger = _jaeger(settings, console) if with_jaeger else None
    if detach:
        _detached(settings, sys.argv[1:])
        return
    began = time.monotonic()
    if jaeger is not None:
        chosen = (_process(jaeger, settings), *chosen)
    local_port = _local_port(settings.bootstrap) if port is None else port
    stack = Stack(
        settings.home,
        local_port or DEFAULT_PORT,
        services=chosen,
        env=jaeger.settings() if jaeger is not None else None,
        bootstrap=None if local_port else settings.bootstrap,
        on_log=None if quiet else _printer(console, chosen),
        on_progress=lambda text: console.print(f"[dim]… {text}[/]"),
    )
    before = _end_on_signals(stack)
    try:
        stack.start()
        ended = stack.settle(_SETTLE_S)
        if stack.state().state == UP:
            _say_ready(console, stack.state(), ended, time.monotonic() - began, stops="Ctrl-C or handrail down")
        stack.wait()
    finally:
        stack.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
    console.print("[dim]all ended[/]")


def down() -> None:
    """End the stack that runs here: services first, then Kafka.

    Example: handrail down
    """
    folder = StackFolder(Settings.from_env(os.environ).home)
    state = folder.read()
    if state is None:
        typer.echo(f"nothing runs in {folder.home}")
        return
    os.kill(state.pid, signal.SIGTERM)
    if not _until(lambda: not folder.is_locked(), _DOWN_WITHIN_S):
        os.kill(state.pid, signal.SIGKILL)  # what it has started dies with it
        if not _until(lambda: not folder.is_locked(), 5.0):
            raise HandrailError(f"pid {state.pid} can't be ended")
    typer.echo(f"ended the stack of {folder.home}")


def status(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Say what runs here: each process, since when, how often restarted, whether it is ready. Exit code 1 when something
    is down.

    Example: handrail status --json
    """
    folder = StackFolder(Settings.from_env(os.environ).home)
    state = folder.read()
    answers = state is not None and wait_until_answers(state.bootstrap, within_s=2.0)
    if as_json:
        whole = {"state": "down", "home": str(folder.home)} if state is None else asdict(state)
        health = ask_all(state.processes) if state else {}
        typer.echo(json.dumps({**whole, "kafka_answers": answers, "health": health}, indent=2))
    elif state is None:
        typer.echo(f"nothing runs in {folder.home}: start with `handrail up`")
    else:
        _show(Console(highlight=False), state, answers)
    if state is None or not state.whole or not answers:
        raise typer.Exit(_FAILED)


def logs(
    service: Annotated[str | None, typer.Argument(help="A service, or kafka. Default: all services.")] = None,
    following: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the stack ends.")] = False,
    count: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last lines.")] = 50,
) -> None:
    """Show the services' logs.

    Example: handrail logs action -f
    """
    folder = StackFolder(Settings.from_env(os.environ).home)
    path = log_path(folder.home, service)
    for line in last_lines(path, count):
        typer.echo(line)
    if following:
        try:
            for line in follow(path, ended=lambda: not folder.is_locked()):
                typer.echo(line)
        except KeyboardInterrupt:
            return


def _jaeger(settings: Settings, console: Console) -> Jaeger:
    """Ports and program of the Jaeger to be; building it may take minutes. Raises ConfigError, HandrailError."""
    if settings.home.joinpath("up.json").exists() and StackFolder(settings.home).is_locked():
        raise AlreadyRunning(StackFolder(settings.home).who_runs())
    asked = os.environ.get("HANDRAIL_JAEGER") or None
    Jaeger.clear_away(os.environ, settings.home / "jaeger")
    ports = Ports.choose(asked)  # before anything is built: it says what is wrong with the one that was asked for
    found = Jaeger.find(os.environ, ports, lambda text: console.print(f"[dim]… {text}[/]"))
    return replace(found, ports=Ports.choose(asked))  # building took minutes: others may have taken them


def _process(jaeger: Jaeger, settings: Settings) -> Program:
    try:
        return jaeger.process(settings.home / "jaeger")
    except OSError as error:
        raise unusable(settings.home, error) from error


def _detached(settings: Settings, arguments: list[str]) -> None:
    """The same command in a session of its own; returns when it is up. Raises AlreadyRunning, HandrailError."""
    folder = StackFolder(settings.home)
    folder.acquire()  # says who runs, or that the folder can't be written
    folder.release()
    again = [argument for argument in arguments if argument != "--detach"] + ["--quiet"]
    output = folder.logs / "up.log"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", "from handrail.cli import main; main()", *again],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    if not _until(lambda: process.poll() is not None or _is_up(folder), 300.0):
        process.terminate()
        raise HandrailError(f"the stack was not up after 300 s: {output}")
    typer.echo(output.read_text(encoding="utf-8", errors="replace"), nl=False)
    if process.poll() is not None:
        raise typer.Exit(process.returncode or _FAILED)
    console = Console(highlight=False, soft_wrap=True)
    _until(lambda: bool(_ended(folder)), _SETTLE_S)
    state = folder.read()
    if state is not None:
        ended = _ended(folder)
        _say_ready(
            console, state, ended, (time.time_ns() // 1_000_000 - state.started_at) / 1000, stops="handrail down"
        )


def _ended(folder: StackFolder) -> tuple[ProcessState, ...]:
    state = folder.read()
    return tuple(one for one in state.processes if one.state != RUNNING) if state else ()


def _is_up(folder: StackFolder) -> bool:
    state = folder.read()
    return state is not None and state.state == UP


def _local_port(bootstrap: str) -> int | None:
    """The port if this is a loopback address; None if Kafka is elsewhere."""
    host, _, port = bootstrap.rpartition(":")
    return int(port) if host in _LOOPBACK and port.isdecimal() else None


def _end_on_signals(stack: Stack) -> dict[signal.Signals, Any]:
    """The first Ctrl-C or SIGTERM ends the stack in order, a second one at once. Returns the handlers before."""
    asked: list[int] = []

    def handle(number: int, _frame: object) -> None:
        stack.begin_stop(hurry=bool(asked))
        asked.append(number)

    return {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}


def _printer(console: Console, services: tuple[Runs, ...]) -> Callable[[str, str], None]:
    colours = {service.name: _COLOURS[index % len(_COLOURS)] for index, service in enumerate(services)}
    width = max([len(name) for name in colours] + [len("kafka")])

    def write(service: str, line: str) -> None:
        console.print(Text.assemble((f"{service:<{width}} | ", colours.get(service, "bold")), line))

    return write


def _say_ready(
    console: Console, state: StackState, ended: tuple[ProcessState, ...], seconds: float, *, stops: str
) -> None:
    for process in ended:
        console.print(f"[bold red]{process.name} does not run[/]: {process.note} (handrail logs {process.name})")
    services = [one.name for one in state.services if one.page is None]
    running = set(services) - {one.name for one in ended}
    console.print(
        f"[bold green]ready[/] in {seconds:.1f} s: Kafka at {state.bootstrap}, {len(running)} of {len(services)} "
        f"services. See handrail status, handrail logs -f; stop with {stops}"
    )
    if state.web:
        console.print(f"how it goes: {state.web}")
    for page in (one.page for one in state.services if one.page):
        console.print(f"traces at {page}, and by handrail trace <run>")
    if state.bootstrap != Settings.from_env(os.environ).bootstrap:
        console.print(f"in other terminals first: export HANDRAIL_BOOTSTRAP={state.bootstrap}")


def _show(console: Console, state: StackState, kafka_answers: bool) -> None:
    table = Table(box=None, pad_edge=False)
    health = ask_all(state.processes)
    for title in ("process", "state", "pid", "since", "restarts", ""):
        table.add_column(title)
    for process in state.processes:
        colour = "green" if process.state == RUNNING else "red"
        since = _ago(process.since) if process.since else ""
        pid = str(process.pid or "")
        table.add_row(
            process.name,
            f"[{colour}]{process.state}[/]",
            pid,
            since,
            str(process.restarts),
            Text(process.note or health.get(process.name, "")),
        )
    console.print(f"{state.state}: supervisor pid {state.pid}, since {_ago(state.started_at)}")
    console.print(table)
    if state.web:
        console.print(f"page: {state.web}")
    if not kafka_answers:
        console.print(f"[red]Kafka does not answer at {state.bootstrap}[/]")


def _ago(at_ms: int) -> str:
    seconds = max(0, int(time.time() - at_ms / 1000))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"


def _until(holds: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
