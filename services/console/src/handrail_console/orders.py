"""Operators' orders: what they say (pure), and the one place that sends them to Kafka."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from confluent_kafka import KafkaError, Message, Producer
from handrail.contracts import Contracts
from handrail.errors import Unreachable

from handrail_console.reach import partitions_of

TOPIC = "recovery.commands"
CONTRACT = "handrail/operator-command.v1"
CONNECT_S = 4.0
SEND_S = 5.0

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """One order: `key` is the id of the letter or task, `body` a value of handrail/operator-command.v1."""

    key: str
    body: Row


Send = Callable[[Sequence[Order]], None]
"""Sends orders and returns when Kafka has them all. Raises Unreachable."""


def letter_order(command: str, letter: Row, by: str, reason: str | None, at: int) -> Order:
    """Replay or discard a dead letter, in the generation that was seen."""
    body = {
        **_EMPTY,
        "command": command,
        "letter": letter["letter"],
        "generation": letter["generation"],
        "by": by,
        "reason": reason,
        "at": at,
    }
    return Order(letter["letter"], body)


def task_order(verdict: str, task: Row, by: str, reason: str | None, at: int) -> Order:
    """Decide a human task: approve, reject or done."""
    body = {
        **_EMPTY,
        "command": "decide",
        **{name: task[name] for name in ("task", "run", "flow", "version", "route", "step")},
        "verdict": verdict,
        "by": by,
        "reason": reason,
        "at": at,
    }
    return Order(task["task"], body)


_EMPTY: Row = dict.fromkeys(("letter", "generation", "task", "run", "flow", "version", "route", "step", "verdict"))


class Sender:
    """Sends orders to partition 0 of `recovery.commands`, each acknowledged by all replicas, at most 10 s in all."""

    def __init__(self, bootstrap: str, contracts: Contracts) -> None:
        self._bootstrap = bootstrap
        self._contracts = contracts

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
        for order, value in zip(orders, values, strict=True):
            headers: list[tuple[str, str | bytes | None]] = [("ce_id", str(uuid4())), ("ce_type", CONTRACT)]
            producer.produce(TOPIC, value, order.key.encode(), partition=0, on_delivery=delivered, headers=headers)
            producer.poll(0)
        left = producer.flush(SEND_S + 0.5)
        if failed or left:
            why = failed[0] if failed else "no answer in time"
            raise Unreachable(
                f"{len(failed) + left} of {len(orders)} orders were not acknowledged by Kafka ({why}). Give the order "
                "again: what has been taken already is not done twice"
            )
