"""The only place where monitor's concrete things are made."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue

import structlog
from handrail.clock import SystemClock
from handrail.contracts import Contracts
from handrail.errors import ConfigError, HandrailError
from handrail.flow import Flows
from handrail.health import listening
from handrail.kafka.reporting import Reporter, this_process
from handrail.metrics import StageMetrics
from handrail.recovery.letter import LETTER_BYTES
from handrail.settings import Settings

from handrail import logs
from handrail_monitor.alerts import Alert
from handrail_monitor.feed import Feed
from handrail_monitor.hearing import Heard, Hearing
from handrail_monitor.limits import Limits
from handrail_monitor.lookups import Loop
from handrail_monitor.outlets import outlets_of
from handrail_monitor.record import Recorder
from handrail_monitor.settings import Telling
from handrail_monitor.watch import SERVICE, Watch
from handrail_monitor.watched import Watched

TICK_S, SOON_S = 1.0, 0.05
MOST_AT_ONCE = 5_000


class Monitor:
    """Everything, put together. Made, run and closed by one thread; the feed and the reporter have their own."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """Raises ConfigError."""
        self._settings = settings = Settings.from_env(env)
        limits, telling = Limits.from_env(env), Telling.from_env(env)
        contracts = Contracts.load(settings.contracts, max_bytes=LETTER_BYTES)
        watched = Watched.of(Flows.load(settings.flows, settings.systems, contracts), telling.link)
        clock = SystemClock()
        me = this_process(SERVICE, clock)
        self._recorder = Recorder(settings.bootstrap, contracts)
        wanted = sorted({one.to for one in watched.flows.values() if one.to})
        self._outlets = outlets_of(telling, wanted, self._told, clock)
        for name in self._outlets.missing(wanted):
            structlog.get_logger().warning("no such notifier", notifier=name, instead="the default ones are told")
        self._watch = Watch(watched, limits, clock, me.instance, self._recorder.put, self._outlets.tell)
        self._said: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._failure: HandrailError | None = None
        self._feed = Feed[Heard](
            settings.bootstrap,
            settings.home / SERVICE,
            understand=Hearing(contracts.decode),
            stats_from=self._watch.stats_from,
            restored=lambda said: self._said.put(partial(self._watch.restore, said)),
            heard=lambda said: self._said.put(partial(self._watch.hear, said)),
            busy=lambda: self._said.put(self._watch.busy),
            failed=self._fail,
        )
        self._reporter = Reporter(settings.bootstrap, contracts, me, lambda: self._watch.vitals, clock)

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop. Raises ConfigError, and another HandrailError when only a new process can go on."""
        metrics = StageMetrics(SERVICE, lambda: self._watch.vitals)
        with listening(self._settings.http, lambda: self._watch.vitals, metrics.registry):
            self._feed.start()
            self._reporter.start()
            telling = asyncio.create_task(self._outlets.run())
            try:
                while not (stop.is_set() or self._failure or telling.done()):
                    more = self._turn()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), SOON_S if more else TICK_S)
            finally:
                telling.cancel()  # it loses none; given again, this would cut short how it ends its own tasks
                await asyncio.wait([telling])
                await self._close()
            if not telling.cancelled():
                telling.result()  # it has ended by an error of ours, and nobody would be told any more
        if self._failure is not None:
            raise self._failure

    def _turn(self) -> bool:
        """One second: what came, what it comes to, and what is written. Whether more has come already."""
        with suppress(Empty):
            for _ in range(MOST_AT_ONCE):
                self._said.get_nowait()()
        if not self._watch.tick():
            self._feed.again()
        self._recorder.work()
        return not self._said.empty()

    def _told(self, alert: Alert, notifier: str) -> None:
        self._watch.told(alert, notifier)
        self._recorder.work()  # at once: whoever is told and not written is told again when monitor is killed now

    def _fail(self, error: HandrailError) -> None:
        self._failure = error

    async def _close(self) -> None:
        """All at once: one after the other they could take longer than a service has to end."""
        await asyncio.gather(*(asyncio.to_thread(one.close) for one in (self._feed, self._reporter, self._recorder)))


async def _serve(env: Mapping[str, str]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Monitor(env).run(stop)


def main(env: Mapping[str, str]) -> int:
    """The exit code: 0 stopped, 1 only a new process can go on, 2 a file or setting is wrong (the log says why).

    While Kafka is away it goes on, and tells.
    """
    logs.configure(SERVICE)
    for name in ("faust", "mode", "aiokafka"):  # they repeat themselves while Kafka is away; we say it once
        logging.getLogger(name).setLevel(logging.CRITICAL)
    log = structlog.get_logger()
    try:
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(_serve(env))
    except ConfigError as error:
        log.error("misconfigured", why=str(error))
        return 2
    except HandrailError as error:
        log.error("ended", code=1, why=str(error))
        return 1
    except Exception:
        log.exception("crashed", code=1)
        return 1
    log.info("ended", code=0)
    return 0
