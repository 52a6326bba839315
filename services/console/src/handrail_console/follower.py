"""The loop of console: read, write to the ledger, and come back when Kafka (or the ledger's database) was away."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

import structlog
from handrail.errors import Unreachable

from handrail_console.ledger import BATCH, Ledger, Positions, Rebuilt
from handrail_console.source import Read, Source

READ_S = 0.5
CHECK_S = 10.0
BEAT_S = 5.0
"""How often the ledger is told that there was nothing new."""
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    """How far it is: records to come by topic, as of the last look (`at`, s since the epoch; None: it has not looked yet).

    `written` counts the records that this process has taken into the ledger; `away` is what keeps it from looking just now:
    Kafka, or the ledger's database (then `lag` still says what the ledger lacks).
    """

    lag: Mapping[str, int] = field(default_factory=dict)
    at: float | None = None
    away: Unreachable | None = None
    written: int = 0

    def looked(self, read: Read) -> Seen:
        """After a look, and before what it gave is in the ledger: that is still to come."""
        lag = Counter(record.topic for record in read.records)
        for where, end in read.highs.items():
            lag[where[0]] += max(0, end - read.reached.get(where, 0))
        return replace(self, lag=dict(lag), at=time.time())

    def wrote(self, read: Read) -> Seen:
        """When it is in the ledger."""
        lag = Counter(self.lag)
        lag.subtract(record.topic for record in read.records)
        return replace(self, lag=dict(lag), written=self.written + len(read.records))


class Follower:
    """Keeps a ledger up with the topics. `connect` makes a Source for positions, or raises Unreachable."""

    def __init__(
        self,
        ledger: Ledger,
        connect: Callable[[Positions], Awaitable[Source]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._connect = connect
        self._sleep = sleep
        self._log = structlog.get_logger().bind(service="console")
        self._away: Unreachable | None = None
        self._beat = float("-inf")
        self._seen = Seen()

    @property
    def seen(self) -> Seen:
        """For those who ask how it is, from any thread."""
        return replace(self._seen, away=self._away)

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
        return new

    def _here(self, source: Source) -> None:
        self._away = None
        self._log.info("following", ledger=str(self._ledger.place))
        for place, lost in source.skipped.items():
            self._log.warning("offsets_gone", topic=place.topic, partition=place.partition, offsets=lost)

    def _gone(self, error: Unreachable) -> None:
        """Say it once: it is tried again and again without a word."""
        if self._away is None:
            self._log.warning("away", why=str(error))
        self._away = error
