"""People during the storm: they decide reviews, finish by hand what needs them, and replay dead letters. In a thread."""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from handrail.contracts import Contracts
from handrail.errors import HandrailError
from handrail_console.orders import Order, Said, Sender, letter_order, task_order
from handrail_demo.people import invoice_is_there, write_invoice
from handrail_demo.plain import PlainContracts

NAME = "chaos@example.com"
WORTH_A_REPLAY = frozenset({"transient", "rate_limited", "outage", "unknown_outcome", "bug", "config"})
"""What may go better now. Of the others one in eight is replayed all the same, once: people do."""
REPLAYS = 4
PATIENCE_S = 20.0
"""So long after an order, it is given again if nothing has come of it."""
_TOPICS = ("tasks", "dead-letters", "recovery.states")
_AT_ONCE = 20
_TROUBLE = (OSError, http.client.HTTPException, HandrailError)
"""Billing or Kafka is in a bad way: the next round tries again."""

Row = dict[str, Any]


class People(threading.Thread):
    """Give orders every `every_s` seconds until `finish`. `given` counts the orders by what they were."""

    def __init__(self, bootstrap: str, contracts: Path, billing: str, every_s: float) -> None:
        super().__init__(name="people", daemon=True)
        self.given: Counter[str] = Counter()
        self.active = threading.Event()
        self.eager = threading.Event()
        """Set: at least one order is given each round, a useless one if there is no other."""
        self._plain = PlainContracts(contracts)
        self._send = Sender(bootstrap, Contracts.load(contracts))
        self._billing, self._every_s = billing, every_s
        self._tasks: dict[str, Row] = {}
        self._letters: dict[str, Row] = {}
        self._states: dict[str, Row] = {}
        self._last: dict[str, float] = {}
        self._replays: Counter[str] = Counter()
        self._ended = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"people-{uuid.uuid4()}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        found = self._consumer.list_topics(timeout=20).topics
        self._consumer.assign(
            [TopicPartition(name, number, OFFSET_BEGINNING) for name in _TOPICS for number in found[name].partitions]
        )

    def finish(self) -> None:
        """Go home."""
        self._ended.set()
        self.join(30)

    def open_tasks(self) -> int:
        """Tasks that wait for somebody."""
        return sum(task["state"] == "open" for task in list(self._tasks.values()))

    def open_letters(self) -> int:
        """Dead letters that a replay may help, and those that are on their way."""
        letters = list(self._letters.values())
        return sum(self._state(letter) == "REPLAYING" or self._is_hopeful(letter) for letter in letters)

    def run(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            for message in self._consumer.consume(500, 0.2):
                value = message.value()
                if message.error() is None and value is not None:
                    self._note(str(message.topic()), value)
            if self.active.is_set() and time.monotonic() >= due:
                self._work()
                due = time.monotonic() + self._every_s
        self._consumer.close()

    def _note(self, topic: str, value: bytes) -> None:
        try:
            body = self._plain.decode(value)[1]
        except ValueError:  # an order to the stage of letters, or a letter that was too broken
            return
        match topic:
            case "tasks":
                self._tasks[body["task"]] = body
            case "dead-letters" if "failure_class" in body:
                self._letters[body["letter"]] = {name: body[name] for name in ("letter", "generation", "failure_class")}
            case "recovery.states":
                known = self._states.get(body["letter"])
                if known is None or body["generation"] >= known["generation"]:
                    self._states[body["letter"]] = {name: body[name] for name in ("letter", "generation", "state")}

    def _work(self) -> None:
        orders: list[Order] = []
        for task in [task for task in self._tasks.values() if task["state"] == "open"]:
            if len(orders) < _AT_ONCE and self._may(task["task"]):
                verdict = _verdict(task)
                if verdict != "done" or self._finished_by_hand(task):
                    orders.append(task_order(verdict, task, Said(NAME, "looked at it"), _now()))
                    self.given[verdict] += 1
        for letter in list(self._letters.values()):
            if len(orders) < 2 * _AT_ONCE and self._is_hopeful(letter) and self._may(letter["letter"]):
                orders.append(letter_order("replay", letter, Said(NAME, "it may go better now"), _now()))
                self._replays[letter["letter"]] += 1
                self.given["replay"] += 1
        if not orders and self.eager.is_set():
            orders = self._useless()
        if orders:
            try:
                self._send(orders)
            except _TROUBLE:
                self.given["not taken"] += len(orders)

    def _useless(self) -> list[Order]:
        """Replay an open letter that will only fail again."""
        for letter in list(self._letters.values()):
            if (
                self._state(letter) == "OPEN"
                and self._replays[letter["letter"]] < REPLAYS
                and self._may(letter["letter"])
            ):
                self._replays[letter["letter"]] += 1
                self.given["useless replay"] += 1
                return [letter_order("replay", letter, Said(NAME, "somebody insists"), _now())]
        return []

    def _finished_by_hand(self, task: Row) -> bool:
        """Whether the invoice is there now; what billing says is not believed."""
        request = json.loads(task["context"])["request"]
        try:
            write_invoice(self._billing, request)
            return invoice_is_there(self._billing, request["reference"])
        except _TROUBLE:
            return False

    def _may(self, key: str) -> bool:
        now = time.monotonic()
        if now - self._last.get(key, -PATIENCE_S) < PATIENCE_S:
            return False
        self._last[key] = now
        return True

    def _is_hopeful(self, letter: Row) -> bool:
        name = letter["letter"]
        if self._state(letter) != "OPEN":
            return False
        if letter["failure_class"] in WORTH_A_REPLAY:
            return self._replays[name] < REPLAYS
        return crc32(name.encode()) % 8 == 0 and self._replays[name] < 1

    def _state(self, letter: Row) -> str:
        state = self._states.get(letter["letter"])
        return str(state["state"]) if state and state["generation"] >= letter["generation"] else "OPEN"


def _verdict(task: Mapping[str, Any]) -> str:
    """Always the same for one task: an order that is given again must not say something else."""
    lot = crc32(task["task"].encode())
    if task["kind"] == "manual" or lot % 7 == 0:
        return "done"
    return "reject" if lot % 5 == 0 else "approve"


def _now() -> int:
    return int(time.time() * 1000)
