"""How far the stages are behind: committed positions against the ends of their inboxes."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaException, TopicPartition

_EVERY_S = 1.0
_ASK_S = 2.0


class Flow(threading.Thread):
    """`behind` is the number of records by stage, as last seen; `still_s` the time since any position or end has moved.

    The marker that ends a transaction is counted, too: a stage that is through may be one or two behind, for ever.
    """

    def __init__(self, bootstrap: str, inboxes: Mapping[str, str]) -> None:
        """`inboxes` by group."""
        super().__init__(name="flow", daemon=True)
        self._inboxes = inboxes
        self._consumers = {
            group: Consumer(
                {"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False, "log_level": 0}
            )
            for group in inboxes
        }
        self._behind: dict[str, int] = {}
        self._places: dict[str, tuple[tuple[int, int], ...]] = {}
        self._moved = time.monotonic()
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(_EVERY_S):
            for group, consumer in self._consumers.items():
                try:
                    self._look(group, consumer)
                except KafkaException:  # no broker answers now
                    continue

    def finish(self) -> None:
        """End it."""
        self._ended.set()
        self.join(30)
        for consumer in self._consumers.values():
            consumer.close()

    def behind(self) -> dict[str, int]:
        """Records behind, by stage."""
        return dict(self._behind)

    def total(self) -> int:
        """Records behind, all stages together."""
        return sum(self._behind.values())

    def still_s(self) -> float:
        """Seconds since anything moved."""
        return time.monotonic() - self._moved

    def _look(self, group: str, consumer: Consumer) -> None:
        inbox = self._inboxes[group]
        partitions = consumer.list_topics(inbox, timeout=_ASK_S).topics[inbox].partitions
        asked = [TopicPartition(inbox, number) for number in partitions]
        places = []
        for each in consumer.committed(asked, timeout=_ASK_S):
            marks = consumer.get_watermark_offsets(TopicPartition(inbox, each.partition), timeout=_ASK_S)
            if marks is not None:
                places.append((max(0, each.offset), int(marks[1])))
        if tuple(places) != self._places.get(group):
            self._places[group] = tuple(places)
            self._moved = time.monotonic()
        self._behind[group] = sum(max(0, high - at) for at, high in places)
