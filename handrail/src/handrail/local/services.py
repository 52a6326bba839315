"""Which services there are and how each is run: the one list."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from handrail.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Service:
    """One service: `python -m <module> <arguments>` in a process of its own.

    `answers` says that it answers about its health where HANDRAIL_HTTP says, `web` that it shows people a page where
    HANDRAIL_WEB says.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    answers: bool = True
    web: bool = False

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", self.module, *self.arguments]


@dataclass(frozen=True, slots=True)
class Program:
    """A foreign program that runs beside the services: its command, and what is run before it, whatever comes of that.

    `page` is where it shows itself and answers (a URL).
    """

    name: str
    command: Sequence[str]
    before: Sequence[str] = ()
    page: str | None = None


Runs = Service | Program
"""What the supervisor runs."""

# Hands before triggers, the order in which upgrades go, too: what is asked for is there when it is asked.
SERVICES = (
    Service("console", "handrail_console"),
    Service("monitor", "handrail_monitor"),
    Service("recovery", "handrail_recovery"),
    Service("action", "handrail_action"),
    Service("decision", "handrail_decision"),
    Service("transform", "handrail_transform"),
    Service("ingest", "handrail_ingest"),
    Service("page", "handrail_console.web", web=True),
)
SANDBOX = Service("sandbox", "handrail_sandbox", ("serve",), answers=False)


def choose(names: Sequence[str] | None = None, *, sandbox: bool = False) -> tuple[Service, ...]:
    """The named services, all of them for None; the sandbox first if asked for or named.

    Raises ConfigError for a name that there is none of.
    """
    known = {service.name: service for service in (SANDBOX, *SERVICES)}
    for name in names or ():
        if name not in known:
            raise ConfigError(f"no service {name!r}: there are {', '.join(known)}")
    wanted = {service.name for service in SERVICES} if names is None else set(names)
    if sandbox:
        wanted.add(SANDBOX.name)
    return tuple(service for service in known.values() if service.name in wanted)
