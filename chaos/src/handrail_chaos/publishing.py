"""Sends the stream in a thread of its own, as fast as the run can take it, and notes what Kafka has acknowledged."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import IO

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from handrail.identity import partition_for
from handrail.kafka.publishing import publisher

from handrail_chaos.evidence import Published
from handrail_chaos.stream import Sending, Stream

TOPIC = "ingest.orders.order-accepted"
_OUTLASTS_MS = 120_000
"""Longer than any outage of the storm: what is not acknowledged by then counts as not acknowledged."""
_PAUSE_S = 0.02
_FLUSH_S = 130.0


class Publisher:
    """Start it once; `rate`, `limit` and `burst_s` (so many seconds' worth at a time) steer it.

    `published` tells what was sent, in the order of answers.
    """

    def __init__(self, bootstrap: str, stream: Stream, partitions: int, file: Path, may_go: Callable[[], bool]) -> None:
        """`may_go` says whether the stages can take more."""
        self.rate = 0.0
        self.burst_s = 0.0
        self.limit: int | None = None
        self.sent = 0
        self.acknowledged = 0
        self.published: list[Published] = []
        self._names: set[str] = set()
        self._bootstrap = bootstrap
        self.unplaced: dict[int, Sending] = {}
        self._stream, self._partitions, self._may_go = stream, partitions, may_go
        self._file: IO[str] = file.open("w", encoding="utf-8", buffering=1 << 16)
        self._producer = Producer({**publisher(bootstrap, "chaos"), "message.timeout.ms": _OUTLASTS_MS})
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin; nothing is sent before `rate` is above 0."""
        self._thread.start()

    @property
    def distinct(self) -> int:
        """How many different events were sent."""
        return len(self._names)

    def finish(self) -> list[Published]:
        """Send nothing more, wait for every answer, and give all that was sent. Raises what has ended the thread."""
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self._producer.flush(_FLUSH_S)
        self._find_places()
        for told in self.published:
            self._file.write(json.dumps(asdict(told)) + "\n")
        self._file.close()
        return self.published

    def _find_places(self) -> None:
        """Where those stand that were acknowledged without an offset: the broker had them already when they came again."""
        if not self.unplaced:
            return
        claimed = {(one.partition, one.offset) for one in self.published if one.acknowledged}
        wanted = {index: (one.key.encode() if one.keyed else None, one.value) for index, one in self.unplaced.items()}
        for where, content in _contents(self._bootstrap, self._partitions):
            index = next((each for each, sought in wanted.items() if sought == content), None)
            if index is not None and where not in claimed:
                del wanted[index]
                self.published[index] = replace(self.published[index], partition=where[0], offset=where[1])

    def _run(self) -> None:
        try:
            self._send()
        except BaseException as error:
            self._failure = error

    def _send(self) -> None:
        stream: Iterator[Sending] = iter(self._stream)
        budget, last = 0.0, time.monotonic()
        while not self._stop.is_set():
            self._producer.poll(_PAUSE_S)
            now = time.monotonic()
            budget = min(budget + self.rate * (now - last), max(1.0, self.rate))
            last = now
            if not self._may_go():
                budget = 0.0
            if budget < self.rate * self.burst_s:
                continue
            while budget >= 1.0 and not self._is_full():
                budget -= 1.0
                self._produce(next(stream))

    def _is_full(self) -> bool:
        return self.limit is not None and self.sent >= self.limit

    def _produce(self, one: Sending) -> None:
        self.sent += 1
        self._producer.produce(
            TOPIC,
            value=one.value,
            key=one.key.encode() if one.keyed else None,
            partition=partition_for(one.key, self._partitions),
            headers=list(one.headers),
            on_delivery=partial(self._delivered, one),
        )

    def _delivered(self, one: Sending, error: KafkaError | None, message: Message) -> None:
        offset = message.offset() if error is None else None
        if offset is not None and offset < 0:
            offset = None
        if error is None and offset is None:
            self.unplaced[len(self.published)] = one
        told = Published(
            identity=one.identity,
            key=one.key,
            kind=one.kind,
            acknowledged=error is None,
            topic=TOPIC,
            partition=message.partition() if error is None else None,
            offset=offset,
            revision=one.revision,
        )
        self.published.append(told)
        self._names.add(told.name)
        self.acknowledged += error is None


def _contents(bootstrap: str, partitions: int) -> Iterator[tuple[tuple[int, int], tuple[bytes | None, bytes | None]]]:
    """Every record of the topic: (partition, offset), (key, value). Raises KafkaException."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"places-{uuid.uuid4()}",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        consumer.assign([TopicPartition(TOPIC, number, OFFSET_BEGINNING) for number in range(partitions)])
        left = partitions
        while left:
            for message in consumer.consume(1_000, 1.0):
                error = message.error()
                if error is None:
                    key, value = message.key(), message.value()
                    yield (int(message.partition() or 0), int(message.offset() or 0)), (_raw(key), _raw(value))
                elif error.code() == KafkaError._PARTITION_EOF:
                    left -= 1
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()


def _raw(given: bytes | str | None) -> bytes | None:
    return given.encode() if isinstance(given, str) else given
