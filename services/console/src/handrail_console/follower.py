"""The loop of console: read, write to the ledger, and come back when Kafka (or the ledger's database) was away."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

import structlog
from handrail.errors import Unreachable

from handrail_console.backlog import Backlog
from handrail_console.ledger import BATCH, Ledger, Positions, Rebuilt
from handrail_console.source import Read, Source

READ_S = 0.5
CHECK_S = 10.0
BEAT_S = 5.0
"""How often the ledger is told that there was nothing new."""
COUNT_S = 5.0
LONGEST_COUNT_S = 60.0
COUNT_SHARE = 0.02
"""How often what waits for people is counted: so rarely that it takes this share of the time, at least once a minute."""
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 10.0


def pause(took_s: float) -> float:
    """From one count to the next: long where the ledger is large, but not for ever where another had only held its lock."""
    return min(max(COUNT_S, took_s / COUNT_SHARE), LONGEST_COUNT_S)


@dataclass(frozen=True, slots=True)
class Seen:
    """How far it is: records to come by topic, as of the last look (`at`, s since the epoch; None: it has not looked yet).

    `written` counts the records that this process has taken into the ledger; `away` is what keeps it from looking just now:
    Kafka, or the ledger's database (then `lag` still says what the ledger lacks).
    `backlog` is what waits for people, as it was counted last (None: not yet).
    """

    lag: Mapping[str, int] = field(default_factory=dict)
    at: float | None = None
    away: Unreachable | None = None
    written: int = 0
    backlog: Backlog | None = None

    def looked(self, read: Read) -> Seen:
        """After a look, and before what it gave is in the ledger: that is still to come."""
        lag = _beyond(read)
        lag.update(record.topic for record in read.records)
        return replace(self, lag=lag, at=time.time())

    def wrote(self, read: Read) -> Seen:
        """When it is in the ledger."""
        return replace(self, lag=_beyond(read), written=self.written + len(read.records))

    def counted(self, backlog: Backlog) -> Seen:
        return replace(self, backlog=backlog.after(self.backlog))


def _beyond(read: Read) -> Counter[str]:
    """How many records of each topic come after those of this look."""
    lag: Counter[str] = Counter()
    for where, end in read.highs.items():
        lag[where[0]] += max(0, end - read.reached.get(where, 0))
    return lag


class Follower:
    """Keeps a ledger up with the topics. `connect` makes a Source for positions, or raises Unreachable."""

    def __init__(
        self,
        ledger: Ledger,
        connect: Callable[[Positions], Awaitable[Source]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        until_next: Callable[[float], float] = pause,
    ) -> None:
        self._ledger = ledger
        self._connect = connect
        self._sleep = sleep
        self._log = structlog.get_logger().bind(service="console")
        self._beat = float("-inf")
        self._until_next = until_next
        self._count_at = float("-inf")
        self._seen = Seen()

    @property
    def seen(self) -> Seen:
        """For those who ask how it is, from any thread."""
        return self._seen

    async def run(self) -> None:
        """Follow until cancelled: writing is never cut, because it does not await.

        Raises StateError when the ledger can't be written or is of another Kafka.
        """
        wait = FIRST_WAIT_S
        while True:
            try:
                async with await self._connect(self._ledger.positions()) as source:
                    self._here(source)
                    wait = FIRST_WAIT_S
                    await self._follow(source)
            except Rebuilt:
                self._log.info("rebuilt", ledger=str(self._ledger.place))
            except Unreachable as error:
                self._gone(error)
                await self._sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT_S)

    async def _follow(self, source: Source) -> None:
        clock = asyncio.get_running_loop().time
        heard = clock()
        while True:
            if await self.step(source):
                heard = clock()
            elif clock() - heard >= CHECK_S:
                await source.check()
                heard = clock()

    async def step(self, source: Source) -> int:
        """Read one batch and write it. Gives how many records were new."""
        read = await source.read(BATCH, READ_S)
        self._seen = self._seen.looked(read)
        now = asyncio.get_running_loop().time()
        if not read.records and now - self._beat < BEAT_S:
            return 0
        self._beat = now
        new = self._ledger.apply(read.records, read.reached, read.highs)
        self._seen = self._seen.wrote(read)
        if now >= self._count_at:
            self._count(now)
        return new

    def _count(self, now: float) -> None:
        """By the writer's own connection, between two batches: nobody who asks at /metrics costs the ledger anything."""
        began = time.monotonic()
        self._seen = self._seen.counted(self._ledger.backlog())
        self._count_at = now + self._until_next(time.monotonic() - began)

    def _here(self, source: Source) -> None:
        self._seen = replace(self._seen, away=None)
        self._log.info("following", ledger=str(self._ledger.place))
        for place, lost in source.skipped.items():
            self._log.warning("offsets_gone", topic=place.topic, partition=place.partition, offsets=lost)

    def _gone(self, error: Unreachable) -> None:
        """Say it once: it is tried again and again without a word."""
        if self._seen.away is None:
            self._log.warning("away", why=str(error))
        self._seen = replace(self._seen, away=error)
