"""From a record of Kafka to what the watch needs of it. Nothing else of the record is kept: a dead letter may be large."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import structlog

from handrail_monitor.alerts import CONTRACT as ALERT
from handrail_monitor.alerts import Alert
from handrail_monitor.facts import Fact, Gone, fact_of

LETTERS = "dead-letters"

Heard = Fact | Alert


class Named(Protocol):
    """What is needed of a contract."""

    @property
    def name(self) -> str: ...


Decode = Callable[[bytes], tuple[Named, Mapping[str, Any]]]


class Raw(NamedTuple):
    topic: str
    key: bytes | None
    value: bytes | None


class Hearing:
    """Called with each record, by any thread: what it says, or None for what no rule needs."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._log = structlog.get_logger().bind(service="monitor")

    def __call__(self, raw: Raw) -> Heard | None:
        if raw.value is None:
            return Gone((raw.key or b"").decode(errors="replace")) if raw.topic == LETTERS else None
        try:
            contract, body = self._decode(raw.value)
            return Alert.from_record(body) if contract.name == ALERT else fact_of(contract.name, body)
        except Exception as error:  # a record that nobody can read must not end the watch
            self._log.warning("unreadable", topic=raw.topic, why=type(error).__name__)
            return None
