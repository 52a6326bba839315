"""Tells the topic `stats` how the stages of this process are, once a second: best effort, outside of transactions.

What Kafka does not take in time is dropped: the next second tells as much. No stage ever waits for it.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import structlog
from confluent_kafka import KafkaException, Producer

from handrail.clock import Clock, SystemClock
from handrail.contracts import Contracts
from handrail.process_stats import CONTRACT, TOPIC, Process, body
from handrail.vitals import Vitals

EVERY_S = 1.0
_FLUSH_S = 1.0


def this_process(service: str, clock: Clock) -> Process:
    """This process; nobody else has its instance."""
    now = clock.now()
    return Process(service, f"{socket.gethostname()}-{os.getpid()}-{now}", now)


class Reporter(threading.Thread):
    """Produces one record for each stage a second, keyed by stage, until closed."""

    def __init__(
        self,
        bootstrap: str,
        contracts: Contracts,
        process: Process,
        vitals: Callable[[], Sequence[Vitals]],
        clock: Clock,
        every_s: float = EVERY_S,
    ) -> None:
        super().__init__(name="reporter", daemon=True)
        self._contracts, self._process, self._vitals = contracts, process, vitals
        self._clock, self._every_s = clock, every_s
        self._ended = threading.Event()
        self._producer = Producer(producer(bootstrap, process.service))

    def run(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self.report()
            except Exception as error:  # telling how one is must never be what ends one
                structlog.get_logger().warning("not reported", why=f"{type(error).__name__}: {error}")
        self._producer.flush(_FLUSH_S)

    def report(self) -> None:
        """Say it once."""
        for one in self._vitals():
            value = self._contracts.encode(CONTRACT, body(self._process, one, self._clock.now()))
            with suppress(BufferError, KafkaException):
                self._producer.produce(TOPIC, value, one.stage.encode())
        self._producer.poll(0)

    def close(self) -> None:
        """Say no more."""
        self._ended.set()
        self.join(2 * _FLUSH_S + self._every_s + 1)


@contextmanager
def reporting(
    bootstrap: str, contracts: Contracts, service: str, vitals: Callable[[], Sequence[Vitals]]
) -> Iterator[None]:
    """Report while the block runs."""
    clock = SystemClock()
    reporter = Reporter(bootstrap, contracts, this_process(service, clock), vitals, clock)
    reporter.start()
    try:
        yield
    finally:
        reporter.close()


def producer(bootstrap: str, service: str) -> dict[str, str | int]:
    """Settings of a producer that forgets rather than waits, and reconnects soon: who is not heard is taken for silent."""
    return {
        "bootstrap.servers": bootstrap,
        "client.id": f"{service}-reporter",
        "acks": 1,
        "message.timeout.ms": 5_000,
        "queue.buffering.max.messages": 1_000,
        "linger.ms": 20,
        "reconnect.backoff.max.ms": 1_000,
        "compression.type": "lz4",
        "partitioner": "murmur2_random",  # as Java's clients have it
        "log_level": 0,
    }
