"""The only place where the page's concrete things are made."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping

import structlog
from handrail.clock import Clock, SystemClock
from handrail.health import listening
from handrail.service import FAILED, OK, guard
from handrail.settings import Settings
from handrail.vitals import Vitals
from prometheus_client import CollectorRegistry, ProcessCollector
from starlette.types import ASGIApp

from handrail_console.database import Place
from handrail_console.owners import Owners
from handrail_console.web.assets import Assets
from handrail_console.web.guard import Guard
from handrail_console.web.rendering import Pages
from handrail_console.web.server import PageServer
from handrail_console.web.settings import PageSettings, is_loopback
from handrail_console.web.site import Site

SERVICE = "page"
NICER = 5
"""Behind the services on a machine that they share: who looks must not slow what is looked at."""


def application(settings: Settings, page: PageSettings, clock: Clock) -> ASGIApp:
    """The page of one ledger. Raises ConfigError."""
    assets = Assets()
    owners = Owners.load(settings.flows, settings.systems)
    site = Site(Place.of(settings.ledger), owners, page.jaeger, clock, Pages(assets), assets)
    return Guard(site.app(), page.hosts)


def main(env: Mapping[str, str]) -> None:
    """Serve until SIGTERM or SIGINT, and end with exit code 0 (1: its server ended, 2: a setting is wrong)."""

    def run(stop: threading.Event) -> int:
        settings, page = Settings.from_env(env), PageSettings.from_env(env)
        os.nice(NICER)
        server = PageServer(application(settings, page, SystemClock()), page.host, page.port)
        log = structlog.get_logger()
        log.info("serves", url=server.url, ledger=str(Place.of(settings.ledger)))
        if not is_loopback(page.host):
            log.warning("open_to_others", why="the page asks nobody who they are: put it behind something that does")
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        with listening(settings.http, lambda: [Vitals(SERVICE, "serve")], registry):
            while not stop.wait(0.5):
                if not server.alive:
                    return FAILED
        server.close()
        return OK

    guard(SERVICE, run)
