"""Writes alerts to the topic `alerts`, where console and the next monitor find them. Never waits: what is not there yet is
written again, the newest record of each alert only."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from handrail.contracts import Contracts
from handrail.kafka.publishing import publisher

from handrail_monitor.alerts import CONTRACT, Alert

TOPIC = "alerts"


class Recorder:
    """One thread uses it."""

    def __init__(self, bootstrap: str, contracts: Contracts) -> None:
        self._producer = Producer({**publisher(bootstrap, "handrail-monitor"), "queue.buffering.max.messages": 10_000})
        self._contracts = contracts
        self._waiting: dict[str, Alert] = {}
        self._under_way: set[str] = set()

    def put(self, alert: Alert) -> None:
        """Write it soon."""
        self._waiting[alert.alert] = alert

    def work(self) -> None:
        """Send what waits; one record of an alert is under way at a time, so that they stay in order."""
        for name, alert in list(self._waiting.items()):
            if name in self._under_way:
                continue
            value = self._contracts.encode(CONTRACT, alert.record())
            try:
                self._producer.produce(TOPIC, value, name.encode(), 0, on_delivery=self._delivered(alert))
            except (BufferError, KafkaException):
                break
            self._under_way.add(name)
        self._producer.poll(0)

    def close(self, within_s: float = 2.0) -> None:
        """Give what is left a moment."""
        self.work()
        self._producer.flush(within_s)

    def _delivered(self, alert: Alert) -> Callable[[KafkaError | None, Message], None]:
        def note(error: KafkaError | None, _message: Message) -> None:
            self._under_way.discard(alert.alert)
            if error is None and self._waiting.get(alert.alert) == alert:
                del self._waiting[alert.alert]

        return note
