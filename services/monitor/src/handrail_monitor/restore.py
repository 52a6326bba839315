"""What was said before monitor began to listen: open letters, breakers, its own alerts; and where Faust then goes on.

Monitor keeps nothing on disk. The topics of states are read whole, up to where they end, and the group's positions are set
to those ends; of `stats` to as far back as the longest window. In between nothing is missed, and what comes twice is no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from handrail.errors import ConfigError, Unreachable
from handrail.kafka.settings import reader
from handrail.process_stats import TOPIC

from handrail_monitor.hearing import Raw

GROUP = "monitor"
STATS, ALERTS = TOPIC, "alerts"
STATES = ("dead-letters", "recovery.states", "systems")
ASK_S = 10.0
STANDS_S = 60.0
"""So long nothing may come before what is read counts as unreadable."""
MEMBER_GONE_S = 20.0
"""Longer than the session of a monitor that was killed lasts."""
_NOT_YET = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)

T = TypeVar("T")


class AnotherMember(Unreachable):
    """Somebody is in monitor's group: another monitor, or what is left of this one's own Faust."""


def read_states(
    bootstrap: str, understand: Callable[[Raw], T | None], busy: Callable[[], None]
) -> tuple[list[T], list[TopicPartition]]:
    """What every committed record of the topics of states and of `alerts` says, and where each of their partitions ends.

    Records are understood as they are read: of a large one only what it says is kept. `busy` is called as they come.
    Raises Unreachable, and ConfigError when a topic is missing.
    """
    with closing(Consumer({**reader(bootstrap, "monitor-restore"), "log_level": 0})) as consumer:
        try:
            places = _places(consumer, (*STATES, ALERTS))
            ends: dict[tuple[str, int], int] = {}
            said = [one for raw in _read(consumer, places, ends, busy) if (one := understand(raw)) is not None]
            return said, [TopicPartition(topic, number, end) for (topic, number), end in ends.items()]
        except KafkaException as error:
            raise Unreachable(f"Kafka does not answer: {error.args[0].str()}") from error


def set_positions(bootstrap: str, ends: Sequence[TopicPartition], stats_from: int, busy: Callable[[], None]) -> None:
    """Where the group goes on: at `ends`, and in `stats` at the time `stats_from` (ms).

    `busy` is called while it waits for another member to leave: that takes longer than monitor stays without a word.
    Raises Unreachable when Kafka does not answer, AnotherMember when the group is not empty.
    """
    settings = {"bootstrap.servers": bootstrap, "group.id": GROUP, "enable.auto.commit": False, "log_level": 0}
    with closing(Consumer(settings)) as consumer:
        try:
            wanted = [TopicPartition(place.topic, place.partition, stats_from) for place in _places(consumer, (STATS,))]
            found = consumer.offsets_for_times(wanted, timeout=ASK_S)
            starts = [one if one.offset >= 0 else _end(consumer, one) for one in found]
            _commit(consumer, [*(one for one in ends if one.topic != ALERTS), *starts], busy)
        except KafkaException as error:
            raise Unreachable(f"Kafka does not answer: {error.args[0].str()}") from error


def _commit(consumer: Consumer, positions: list[TopicPartition], busy: Callable[[], None]) -> None:
    deadline = time.monotonic() + MEMBER_GONE_S
    while True:
        try:
            for place in consumer.commit(offsets=positions, asynchronous=False) or []:
                if place.error is not None:
                    raise KafkaException(place.error)
            return
        except KafkaException as error:
            if error.args[0].code() not in _NOT_YET:
                raise
            busy()
            if time.monotonic() > deadline:
                raise AnotherMember(f"another monitor is in the group {GROUP}: one is enough") from error
            time.sleep(0.25)


def _places(consumer: Consumer, topics: Sequence[str]) -> list[TopicPartition]:
    """By asking for all topics: a broker may make one that it is asked for by name."""
    there = consumer.list_topics(timeout=ASK_S).topics
    if missing := [name for name in topics if name not in there]:
        raise ConfigError(f"there is no topic {', '.join(missing)}; run `handrail topics provision`")
    return [TopicPartition(name, number) for name in topics for number in sorted(there[name].partitions)]


def _read(
    consumer: Consumer, places: list[TopicPartition], ends: dict[tuple[str, int], int], busy: Callable[[], None]
) -> Iterator[Raw]:
    """Up to the end of each partition, which is noted in `ends`: also that of an empty one has a number."""
    consumer.assign([TopicPartition(place.topic, place.partition, OFFSET_BEGINNING) for place in places])
    left = {(place.topic, place.partition) for place in places}
    deadline = time.monotonic() + STANDS_S
    while left:
        if time.monotonic() > deadline:
            raise Unreachable(
                f"the topics {', '.join(sorted({topic for topic, _ in left}))} could not be read to their end"
            )
        some = consumer.consume(500, 0.5)
        if some:
            deadline = time.monotonic() + STANDS_S
            busy()
        for message in some:
            topic, error = str(message.topic()), message.error()
            if error is None:
                key = message.key()
                yield Raw(topic, key.encode() if isinstance(key, str) else key, message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard((topic, int(message.partition() or 0)))
                ends[topic, int(message.partition() or 0)] = int(message.offset() or 0)
            elif error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise KafkaException(error)


def _end(consumer: Consumer, place: TopicPartition) -> TopicPartition:
    _, high = consumer.get_watermark_offsets(TopicPartition(place.topic, place.partition), timeout=ASK_S)
    return TopicPartition(place.topic, place.partition, high)
