"""Operators' orders: what they say (pure), and the one place that sends them to Kafka."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

from confluent_kafka import KafkaError, Message, Producer
from handrail.contracts import Contracts
from handrail.errors import Unreachable
from handrail.telemetry import Telemetry

from handrail import telemetry
from handrail_console.reach import partitions_of

TOPIC = "recovery.commands"
CONTRACT = "handrail/operator-command.v2"
CONNECT_S = 4.0
SEND_S = 5.0

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """One order: `key` is the id of the letter or task, or the flow; `body` a value of handrail/operator-command.v2."""

    key: str
    body: Row


Send = Callable[[Sequence[Order]], None]
"""Sends orders and returns when Kafka has them all. Raises Unreachable."""


@dataclass(frozen=True, slots=True)
class Said:
    """What the person says with an order: who they are, why, and the minutes of work that it took them."""

    by: str
    reason: str | None = None
    minutes: int | None = None


def letter_order(command: str, letter: Row, said: Said, at: int) -> Order:
    """Replay or discard a dead letter, in the generation that was seen."""
    about = {name: letter[name] for name in ("letter", "generation")}
    return Order(letter["letter"], {**_EMPTY, "command": command, **about, **asdict(said), "at": at})


def task_order(verdict: str, task: Row, said: Said, at: int) -> Order:
    """Decide a human task: approve, reject or done."""
    about = {name: task[name] for name in ("task", "run", "flow", "version", "route", "step")}
    return Order(task["task"], {**_EMPTY, "command": "decide", **about, "verdict": verdict, **asdict(said), "at": at})


def review_order(flow: str, version: int, said: Said, at: int) -> Order:
    """Note that a flow was reviewed; the reason is what came of it."""
    return Order(flow, {**_EMPTY, "command": "review", "flow": flow, "version": version, **asdict(said), "at": at})


_EMPTY: Row = dict.fromkeys(("letter", "generation", "task", "run", "flow", "version", "route", "step", "verdict"))


class Sender:
    """Sends orders to partition 0 of `recovery.commands`, each acknowledged by all replicas, at most 10 s in all.

    Each begins a trace of its own; what it does to a run goes on in the run's trace, and is linked to this one.
    """

    def __init__(self, bootstrap: str, contracts: Contracts, telemetry: Telemetry | None = None) -> None:
        self._bootstrap = bootstrap
        self._contracts = contracts
        self._telemetry = telemetry or Telemetry()

    def __call__(self, orders: Sequence[Order]) -> None:
        """Raises Unreachable when Kafka does not answer, has no such topic, or did not take every order."""
        values = [self._contracts.encode(CONTRACT, order.body) for order in orders]
        partitions_of(self._bootstrap, [TOPIC], CONNECT_S)
        failed: list[str] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failed.append(error.str())

        producer = Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "client.id": "handrail-cli",
                "enable.idempotence": True,
                "acks": "all",
                "message.timeout.ms": int(SEND_S * 1000),
                "queue.buffering.max.messages": 1_000_000,  # more orders than a person gives at once
                "log_level": 0,
            }
        )
        sent: list[tuple[str, int]] = []
        for order, value in zip(orders, values, strict=True):
            headers: list[tuple[str, str | bytes | None]] = [("ce_id", str(uuid4())), ("ce_type", CONTRACT)]
            if self._telemetry.on:
                context = self._telemetry.child(None)
                headers.append(("traceparent", context))
                sent.append((context, time.time_ns()))
            producer.produce(TOPIC, value, order.key.encode(), partition=0, on_delivery=delivered, headers=headers)
            producer.poll(0)
        left = producer.flush(SEND_S + 0.5)
        self._record(sent, "unacknowledged" if failed or left else None)
        if failed or left:
            why = failed[0] if failed else "no answer in time"
            raise Unreachable(
                f"{len(failed) + left} of {len(orders)} orders were not acknowledged by Kafka ({why}). Give the order "
                "again: what has been taken already is not done twice (but the note of a review is there twice)"
            )

    def _record(self, sent: Sequence[tuple[str, int]], error: str | None) -> None:
        """A span for each order."""
        ended = time.time_ns()
        for context, started in sent:
            self._telemetry.record(
                stage=TOPIC,
                operation="publish",
                parent=None,
                context=context,
                start_ns=started,
                end_ns=ended,
                attributes={telemetry.DESTINATION: TOPIC, telemetry.PARTITION: "0"},
                error=error,
            )
        self._telemetry.shutdown()
