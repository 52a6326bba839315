"""The only place where the service's concrete things are made."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Mapping
from functools import partial

import structlog
from handrail.cancelling import cancelled
from handrail.clock import SystemClock
from handrail.contracts import Contracts
from handrail.errors import ConfigError, Unreachable
from handrail.health import listening
from handrail.kafka.reporting import reporting
from handrail.recovery.letter import LETTER_BYTES
from handrail.settings import Settings
from handrail.vitals import Vitals

from handrail import logs
from handrail_console import figures
from handrail_console.follower import Follower
from handrail_console.ledger import Ledger
from handrail_console.source import Source


def configure_logs() -> None:
    """JSON lines on stdout. aiokafka's own are silenced: it repeats itself while Kafka is away, we say it once."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
    logs.hear_libraries()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


async def serve(settings: Settings) -> None:
    """Keep the ledger up with the topics until SIGTERM or SIGINT. Raises ConfigError."""
    contracts, clock = Contracts.load(settings.contracts, max_bytes=LETTER_BYTES), SystemClock()
    with Ledger(settings.ledger, contracts) as ledger:
        follower = Follower(ledger, partial(Source.open, settings.bootstrap))
        registry = figures.registry(lambda: follower.seen, clock)

        def vitals() -> list[Vitals]:
            return [figures.vitals(follower.seen, clock.now())]

        with (
            listening(settings.http, vitals, registry),
            # Before it has looked there may be no such topic, and a broker may make one of its own for whoever writes.
            reporting(settings.bootstrap, contracts, figures.SERVICE, lambda: vitals() if follower.seen.at else []),
        ):
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop.set)
            following, stopping = asyncio.create_task(follower.run()), asyncio.create_task(stop.wait())
            await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await cancelled(following, stopping)
            if following.done() and not following.cancelled():
                following.result()


def main(env: Mapping[str, str]) -> int:
    """The exit code: 0 stopped, 1 the ledger's database does not answer, 2 a file or setting is wrong (said in the log)."""
    configure_logs()
    log = structlog.get_logger().bind(service="console")
    try:
        asyncio.run(serve(Settings.from_env(env)))
    except ConfigError as error:
        log.error("stopped", why=str(error))
        return 2
    except Unreachable as error:  # the ledger's database, at the start; later it is waited for
        log.error("unreachable", why=str(error))
        return 1
    log.info("ended")
    return 0
