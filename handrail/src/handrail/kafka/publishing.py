"""Publishing from outside of the stages: by the command line, the demo, tests. Idempotent, but no transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from handrail.errors import ConfigError, HandrailError, Unreachable
from handrail.kafka.admin import WITHIN_S, connect

Outgoing: TypeAlias = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]
"""Key, value, headers."""

MESSAGE_TIMEOUT_S = 10
_PAUSE_S = 0.05
_SLICE_S = 0.5
_TIMED_OUT = frozenset({KafkaError._MSG_TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN})


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A record that Kafka has. `index` is its place in what was given, from 0; `timestamp` in ms since the epoch."""

    index: int
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None


def publisher(bootstrap: str, client: str = "handrail-publish") -> dict[str, Any]:
    """The settings of an idempotent producer whose records are on every in-sync replica when acknowledged."""
    return {
        "bootstrap.servers": bootstrap,
        "client.id": client,
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",  # as Java's clients have it; librdkafka's own default is CRC32
        "message.timeout.ms": MESSAGE_TIMEOUT_S * 1_000,
        "message.max.bytes": 1_310_720,
        "compression.type": "lz4",
        "linger.ms": 5,
        "log_level": 0,  # each failed attempt would go to stderr; we raise one error
    }


def require_topic(bootstrap: str, topic: str, within_s: float = WITHIN_S) -> int:
    """How many partitions the topic has. Raises Unreachable, or ConfigError when there is no such topic.

    Asks for all topics, never for one by name: a broker may create what it is asked for.
    """
    topics = connect(bootstrap, within_s).list_topics(timeout=within_s).topics
    if topic not in topics:
        near = sorted(name for name in topics if name.startswith(topic.partition(".")[0] + "."))
        hint = f" Topics there: {', '.join(near[:8])}." if near else ""
        raise ConfigError(
            f"Kafka at {bootstrap} has no topic {topic}.{hint} Add it to deploy/kafka/topics.yaml and run "
            "`handrail topics provision`, or name another with --topic; publishing creates nothing"
        )
    return len(topics[topic].partitions)


def publish_records(
    settings: Mapping[str, Any],
    topic: str,
    records: Iterable[Outgoing],
    on_ack: Callable[[Acknowledged], None],
    *,
    rate: float | None = None,
    partition: Callable[[bytes | None], int] | None = None,
) -> int:
    """Publish all records and give how many were acknowledged, when all were.

    `on_ack` is called in this thread, in order within each partition. `rate` is records per second at most.
    `partition` chooses the partition by the key; without it the producer's partitioner does. Raises Unreachable when Kafka
    stopped answering and ConfigError when it refused a record, both with the number that was acknowledged; then those
    that were not may have been written or not.
    """
    deliveries = _Deliveries(on_ack)
    producer = Producer(dict(settings))
    pace = _Pace(rate)
    try:
        for index, (key, value, headers) in enumerate(records):
            deliveries.raise_failure()
            pace.wait(index, producer.poll)
            extra = {} if partition is None else {"partition": partition(key)}
            _produce(producer, topic, key, value, headers, partial(deliveries.add, index), extra)
            producer.poll(0)
    finally:
        deliveries.settle(producer)
    deliveries.raise_failure()
    return deliveries.count


class _Deliveries:
    """What was acknowledged, and the first failure. An error of `on_ack` counts as one: never swallowed by the client."""

    def __init__(self, on_ack: Callable[[Acknowledged], None]) -> None:
        self.count = 0
        self._on_ack = on_ack
        self._failure: Exception | None = None

    def add(self, index: int, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failure = self._failure or KafkaException(error)
            return
        self.count += 1
        acknowledged = Acknowledged(
            index, str(message.topic()), _int(message.partition()), _int(message.offset()), message.timestamp()[1],
            _key(message),
        )  # fmt: skip
        try:
            self._on_ack(acknowledged)
        except Exception as failure:
            self._failure = self._failure or failure

    def settle(self, producer: Any) -> None:
        """Wait until every record is acknowledged or has failed; the message timeout bounds it."""
        deadline = time.monotonic() + MESSAGE_TIMEOUT_S + 2
        while len(producer) and time.monotonic() < deadline:
            producer.flush(_SLICE_S)

    def raise_failure(self) -> None:
        if self._failure is None:
            return
        if not isinstance(self._failure, KafkaException):
            raise self._failure
        raise _told(self._failure, self.count) from self._failure


def _produce(
    producer: Any,
    topic: str,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    on_delivery: Callable[..., None],
    extra: dict[str, int],
) -> None:
    while True:
        try:
            producer.produce(topic, value=value, key=key, headers=list(headers), on_delivery=on_delivery, **extra)
            return
        except BufferError:  # the local queue is full, nothing is wrong yet
            producer.poll(_PAUSE_S)
        except KafkaException as error:
            raise _told(error, None) from error


def _told(failure: KafkaException, count: int | None) -> HandrailError:
    error = failure.args[0]
    so_far = "" if count is None else f" after {count} records were acknowledged"
    if error.code() in _TIMED_OUT:
        return Unreachable(f"Kafka stopped answering{so_far} ({error.str()})")
    return ConfigError(f"Kafka refused a record{so_far}: {error.str()}")


class _Pace:
    """At most so many a second, counted from the first, so that a pause is caught up with but never overshot."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._begun = time.monotonic()

    def wait(self, index: int, poll: Callable[[float], Any]) -> None:
        """Wait until the record is due, serving the producer meanwhile."""
        if self._rate is None:
            return
        while (left := self._begun + index / self._rate - time.monotonic()) > 0:
            poll(min(left, _PAUSE_S))


def _int(value: int | None) -> int:
    return -1 if value is None else value


def _key(message: Message) -> bytes | None:
    key = message.key()
    return key.encode() if isinstance(key, str) else key
