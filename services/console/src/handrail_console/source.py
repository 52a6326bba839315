"""Reading the shared topics with aiokafka: every partition by assignment, from the ledger's own positions, no group."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from handrail.errors import StateError, Unreachable

from handrail_console.ledger import Positions, Where
from handrail_console.projection import TOPICS, Record
from handrail_console.reach import partitions_of

ANSWER_S = 8.0
SHORT_S = 2.0
"""For what runs in a thread: the end of the process waits for it."""
FETCH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Read:
    """What one look gave: records, the offsets below which nothing is left to read, and where partitions end."""

    records: Sequence[Record]
    reached: Positions
    highs: Positions


async def _stop(consumer: AIOKafkaConsumer) -> None:
    """Of aiokafka 0.14 a fetch that waits for its next attempt passes its own cancellation on, as if we were to end."""
    try:
        await consumer.stop()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        await consumer._client.close()  # which stop() did not come to


class Source:
    """One connection to Kafka. When anything goes wrong it is thrown away and a new one is made."""

    def __init__(self, consumer: AIOKafkaConsumer, places: Sequence[TopicPartition]) -> None:
        self._consumer = consumer
        self._places = places
        self.skipped: dict[TopicPartition, int] = {}
        """Offsets that were gone before they could be read, by partition."""
        self.beginnings: Positions = {}
        """The first offset that each partition still has."""

    @classmethod
    async def open(cls, bootstrap: str, positions: Positions) -> Source:
        """Assign every partition of the topics and go to the positions.

        Raises Unreachable when Kafka does not answer or a topic is missing, and StateError when the ledger has read
        further than a topic goes.
        """
        places = await asyncio.to_thread(_places, bootstrap)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            client_id="handrail-console",
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_partition_fetch_bytes=FETCH_BYTES,
            request_timeout_ms=int(ANSWER_S * 1000),
        )
        source = cls(consumer, places)
        try:
            async with asyncio.timeout(ANSWER_S * 2):
                await consumer.start()
                consumer.assign(places)
                await source.seek(positions)
        except BaseException as error:
            await _stop(consumer)
            if isinstance(error, (KafkaError, TimeoutError)):
                raise Unreachable(f"Kafka at {bootstrap} does not answer: {_said(error)}") from error
            raise
        return source

    async def seek(self, positions: Positions) -> None:
        """Go to the positions; where those offsets are gone, to the beginning, which `skipped` tells.

        Raises StateError when a position lies behind the end of its partition.
        """
        beginnings = await self._consumer.beginning_offsets(self._places)
        ends = await self._consumer.end_offsets(self._places)
        self.beginnings = {_where(place): beginning for place, beginning in beginnings.items()}
        for place in self._places:
            following = positions.get((place.topic, place.partition), 0)
            if following > ends[place]:
                raise StateError(
                    f"the ledger has read {place.topic}[{place.partition}] up to offset {following}, but it ends at "
                    f"{ends[place]}: the ledger is of another Kafka. Name another ledger with HANDRAIL_LEDGER, or make "
                    "this one anew from this Kafka: handrail ledger rebuild"
                )
            if following < beginnings[place] and (place.topic, place.partition) in positions:
                self.skipped[place] = beginnings[place] - following
            self._consumer.seek(place, max(following, beginnings[place]))

    async def read(self, limit: int, within_s: float) -> Read:
        """The next records, none when there are none in that time. Raises Unreachable."""
        try:
            fetched = await self._consumer.getmany(timeout_ms=int(within_s * 1000), max_records=limit)
            reached = {_where(place): await self._consumer.position(place) for place in self._places}
        except OffsetOutOfRangeError as error:
            raise Unreachable(f"a topic was cut or made anew while it was read: {_said(error)}") from error
        except KafkaError as error:
            raise Unreachable(f"Kafka does not answer: {_said(error)}") from error
        records = [
            Record(place.topic, place.partition, one.offset, one.timestamp, one.key, one.value)
            for place, some in fetched.items()
            for one in some
        ]
        highs = {_where(place): self._consumer.highwater(place) or reached[_where(place)] for place in self._places}
        return Read(records, reached, highs)

    async def ends(self) -> Positions:
        """Where each partition ends by now. Raises Unreachable."""
        try:
            async with asyncio.timeout(ANSWER_S):
                found = await self._consumer.end_offsets(self._places)
        except (KafkaError, TimeoutError) as error:
            raise Unreachable(f"Kafka does not answer: {_said(error)}") from error
        return {_where(place): end for place, end in found.items()}

    async def check(self) -> None:
        """Ask whether Kafka is there; a silent topic and a dead broker look the same to `read`. Raises Unreachable."""
        await self.ends()

    async def close(self) -> None:
        await _stop(self._consumer)

    async def __aenter__(self) -> Source:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()


def _places(bootstrap: str) -> list[TopicPartition]:
    partitions = partitions_of(bootstrap, TOPICS, SHORT_S)
    return [TopicPartition(name, number) for name in TOPICS for number in partitions[name]]


def _where(place: TopicPartition) -> Where:
    return place.topic, place.partition


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
