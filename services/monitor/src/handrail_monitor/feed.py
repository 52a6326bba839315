"""Faust reads the topics and hands on what they say: the only room that knows Faust (docs/adr/0014).

It lives in a thread with an event loop of its own. When it ends, because Kafka went away or it lost its footing, the thread
restores and begins anew; deciding and telling go on meanwhile, in another thread.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog
from handrail.errors import ConfigError, HandrailError

from handrail_monitor.hearing import Raw
from handrail_monitor.restore import GROUP, STATES, STATS, read_states, set_positions

LOOK_S = 0.2
PAUSES_S = (0.5, 1.0, 2.0, 5.0)
STOP_S = 4.0
"""Below the time that a service has to end: what of Faust hangs then dies with the process."""
SESSION_S, HEARTBEAT_S, REQUEST_S = 10.0, 3.0, 20.0


T = TypeVar("T")


class FaustStays(HandrailError):
    """A thread of Faust outlived its app."""


class Feed(threading.Thread, Generic[T]):
    """Hears until closed. `restored` is called with what the topics of states say, `heard` with each record after it.

    `understand` makes what is handed on of a record, None for what nobody needs. `stats_from` gives the time (ms) from which
    on `stats` is read. `busy` is called while it reads what was said before, and while it stands back behind another
    monitor: then it hears nothing, and Kafka is well. `failed` is told what ends the feed for good: a ConfigError, or
    Faust, which would not end.
    """

    def __init__(
        self,
        bootstrap: str,
        datadir: Path,
        *,
        understand: Callable[[Raw], T | None],
        stats_from: Callable[[], int],
        restored: Callable[[list[T]], None],
        heard: Callable[[T | None], None],
        busy: Callable[[], None],
        failed: Callable[[HandrailError], None],
    ) -> None:
        super().__init__(name="feed", daemon=True)
        self._kafka, self._datadir = bootstrap, datadir
        self._understand, self._stats_from = understand, stats_from
        self._restored, self._heard, self._failed = restored, heard, failed
        self._busy = busy
        self._ended = threading.Event()
        self._again = threading.Event()
        self._log = structlog.get_logger().bind(service="monitor")

    def again(self) -> None:
        """Begin anew: it seems to hear nothing."""
        self._again.set()

    def close(self) -> None:
        """End it, and wait for it for a while."""
        self._ended.set()
        self.join(STOP_S + 1)

    def run(self) -> None:
        failures = 0
        while not self._ended.is_set():
            self._again.clear()
            try:
                said, ends = read_states(self._kafka, self._understand, self._busy)
                self._restored(said)
                set_positions(self._kafka, ends, self._stats_from(), self._busy)
                self._log.info("listening", restored=len(said))
                failures = 0
                self._run_faust()
                self._log.warning("listens anew")
            except (ConfigError, FaustStays) as error:
                self._failed(error)
                return
            except HandrailError as error:
                self._say_once(failures, str(error))
            except Exception as error:  # whatever Faust raises: the next one may do better
                self._say_once(failures, f"{type(error).__name__}: {error}")
            self._ended.wait(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
            failures += 1

    def _say_once(self, failures: int, why: str) -> None:
        if failures == 0:
            self._log.warning("away", why=why)

    def _run_faust(self) -> None:
        """Raises what Faust crashed of, and FaustStays when it is not gone after that."""
        before = set(threading.enumerate())
        try:
            asyncio.run(self._listen())
        finally:
            if not self._ended.is_set():  # what stays then dies with the process
                none_stays(before)

    async def _listen(self) -> None:
        """Run the app until it crashes, or is told to end or to begin anew. Raises what it crashed of."""
        app = build(self._kafka, self._datadir, self._hear, asyncio.get_running_loop())
        try:
            async with asyncio.timeout(REQUEST_S * 2):
                await app.start()
            while not (self._ended.is_set() or self._again.is_set() or app.should_stop):
                await asyncio.sleep(LOOK_S)
        finally:
            crash = app.crash_reason
            async with asyncio.timeout(STOP_S):
                await app.stop()
        if crash is not None:
            raise crash

    def _hear(self, raw: Raw) -> None:
        self._heard(self._understand(raw))


def none_stays(before: Collection[threading.Thread], within_s: float = STOP_S) -> None:
    """Wait for the threads of Faust that are not of `before`. Raises FaustStays when one does not end.

    It would keep its place in the group alive and its partitions with it, unread: nothing would be heard any more.
    """
    from mode.threads import WorkerThread  # here, as Faust

    deadline = time.monotonic() + within_s
    for thread in set(threading.enumerate()) - set(before):
        if isinstance(thread, WorkerThread):
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise FaustStays(f"Faust's thread {thread.name} did not end: only a new process is rid of it")


def build(bootstrap: str, datadir: Path, heard: Callable[[Raw], None], loop: asyncio.AbstractEventLoop) -> Any:
    """The Faust app: one agent over all topics, raw bytes, no tables, no web server, and it makes no topics."""
    import faust  # here: it takes a moment, and whoever only judges or tells does not need it

    app = faust.App(
        GROUP,
        broker=";".join(f"aiokafka://{one}" for one in bootstrap.split(",")),
        loop=loop,
        datadir=datadir,
        autodiscover=False,
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        reply_create_topic=False,
        consumer_auto_offset_reset="latest",
        broker_session_timeout=SESSION_S,
        broker_heartbeat_interval=HEARTBEAT_S,
        broker_request_timeout=REQUEST_S,
        stream_wait_empty=False,
        key_serializer="raw",
        value_serializer="raw",
    )

    async def hear(stream: Any) -> None:
        async for event in _events(stream):
            message = event.message
            heard(Raw(message.topic, message.key, message.value))

    app.agent(app.topic(STATS, *STATES, key_type=bytes, value_type=bytes), name="hear")(hear)
    return app


async def _events(stream: Any) -> AsyncIterator[Any]:
    async for event in stream.events():
        yield event
