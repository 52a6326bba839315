"""How many records a service has in flight: what its stages have not committed yet, counted while it is stopped."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient
from handrail.local.supervisor import Stack

from handrail_demo.errors import DemoError

_PATIENCE_S = 20.0
_READ_S = 5.0


@dataclass(frozen=True, slots=True)
class Inbox:
    """A stage by its group and inbox topic; `effects` names the topic of its open effects, where it has any."""

    group: str
    topic: str
    effects: str | None = None


def kill_in_flight(stack: Stack, service: str, inbox: Inbox) -> tuple[int, int]:
    """Stop a service, count what it has in flight, and kill it with -9 if that is more than nothing.

    Gives (pid, records in flight). Where there is nothing, it goes on and is stopped again a moment later. Raises
    DemoError when it never has anything in flight.
    """
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        pid = stack.pids().get(service)
        if pid is None:
            time.sleep(0.05)
            continue
        os.kill(pid, signal.SIGSTOP)
        count = unfinished(stack.bootstrap, inbox)
        if count > 0:
            stack.kill9(service)
            return pid, count
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.05)
    raise DemoError(f"{service} had nothing in flight for {_PATIENCE_S:.0f} s, so killing it would prove nothing")


def unfinished(bootstrap: str, inbox: Inbox) -> int:
    """Records of the inbox after the committed positions, and effects that have an intent and no outcome."""
    count = sum(1 for _ in _records(bootstrap, _committed(bootstrap, inbox)))
    if inbox.effects is not None:
        count += _open_effects(bootstrap, inbox.effects)
    return count


def _committed(bootstrap: str, inbox: Inbox) -> list[TopicPartition]:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(inbox.group)], request_timeout=_READ_S)
    found = asked[inbox.group].result().topic_partitions
    return [each for each in found if each.topic == inbox.topic]


def _open_effects(bootstrap: str, topic: str) -> int:
    partitions = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(topic, timeout=_READ_S)
    start = [TopicPartition(topic, number, 0) for number in partitions.topics[topic].partitions]
    rows: dict[bytes, bool] = {}
    for key, value in _records(bootstrap, start):
        if key is not None and key.startswith(b"t/effects/"):
            rows[key] = value is not None
    return sum(rows.values())


def _records(bootstrap: str, start: list[TopicPartition]) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Committed records from these positions to the last stable offset: a stopped service may hold a transaction open."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"in-flight-{uuid.uuid4()}",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
            "log_level": 0,
        }
    )
    left = {each.partition for each in start}
    until = time.monotonic() + _READ_S
    try:
        consumer.assign(start)
        while left and time.monotonic() < until:
            for message in consumer.consume(1_000, 0.1):
                error = message.error()
                if error is None:
                    key, value = message.key(), message.value()
                    yield key, value
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(int(message.partition() or 0))
    finally:
        consumer.close()
