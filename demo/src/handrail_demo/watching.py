"""Follows the topics runs and dead-letters as an outsider: for the progress bar, and to see when all is quiet."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from handrail_demo.plain import PlainContracts

ENDED = frozenset({"done", "rejected", "failed", "done-by-hand"})
RESTING = ENDED | {"waiting", "manual"}
_SIGNS = "action.billing.state"
"""Each attempt at a call is seen there; its run tells of the first that failed, and of the outcome."""
_TOPICS = ("runs", "dead-letters", "recovery.states", _SIGNS)


class Watcher:
    """A thread with a plain consumer. `states` counts runs by their newest state; `quiet_s` is the time without news."""

    def __init__(self, bootstrap: str, contracts: PlainContracts) -> None:
        self._contracts = contracts
        self._states: dict[str, tuple[int, str]] = {}
        self._counts: Counter[str] = Counter()
        self._letters: dict[bytes | None, None] = {}
        self._news = time.monotonic()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"watching-{uuid.uuid4()}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        found = self._consumer.list_topics(timeout=10).topics
        self._consumer.assign(
            [TopicPartition(name, number, OFFSET_BEGINNING) for name in _TOPICS for number in found[name].partitions]
        )
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        self._consumer.close()

    def states(self) -> Counter[str]:
        """Runs by newest state, and `letters`."""
        with self._lock:
            return self._counts.copy()

    def resting(self) -> int:
        """Runs that no machine moves on by itself, and letters that belong to no run."""
        counts = self.states()
        failed = counts["failed"]
        return sum(counts[state] for state in RESTING) + max(0, counts["letters"] - failed)

    def moving(self) -> int:
        """Runs that a machine still has to move on."""
        return sum(count for state, count in self.states().items() if state not in RESTING and state != "letters")

    def still_s(self) -> float:
        """Seconds without news: no run, letter or call has moved."""
        with self._lock:
            return time.monotonic() - self._news

    def wait_until_quiet(self, expected: int, within_s: float, *, still_s: float = 3.0) -> bool:
        """Until at least `expected` have come to rest, nothing moves, and there was no news for `still_s` seconds."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            if self.still_s() >= still_s and self.moving() == 0 and self.resting() >= expected:
                return True
            self._stop.wait(0.2)
        return False

    def _run(self) -> None:
        while not self._stop.is_set():
            for message in self._consumer.consume(500, 0.2):
                value = message.value()
                if message.error() is None and value is not None:
                    self._note(message.topic() or "", message.key(), value)

    def _note(self, topic: str, key: bytes | None, value: bytes) -> None:
        body = {} if topic == _SIGNS else self._contracts.decode(value)[1]
        with self._lock:
            self._news = time.monotonic()
            if topic == "dead-letters":
                self._letters[key] = None
                self._counts["letters"] = len(self._letters)
            elif topic == "runs":
                known = self._states.get(body["run"])
                if known is None or body["sequence"] > known[0]:
                    self._states[body["run"]] = (body["sequence"], body["state"])
                    self._counts[body["state"]] += 1
                    if known is not None:
                        self._counts[known[1]] -= 1
