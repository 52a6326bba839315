"""Reaching Kafka for administration: a client that answers, or an error that says what to do."""

from __future__ import annotations

import time

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from handrail.errors import Unreachable

WITHIN_S = 8.0


def connect(bootstrap: str, within_s: float = WITHIN_S) -> AdminClient:
    """A client of a Kafka that has just answered. Raises Unreachable after `within_s` seconds.

    Keep the client as long as its futures: those of a client that is gone never end.
    """
    client = _client(bootstrap)
    deadline = time.monotonic() + within_s
    while True:
        error = _error(client, min(1.0, within_s))
        if error is None:
            return client
        if time.monotonic() >= deadline:
            raise Unreachable(
                f"Kafka does not answer at {bootstrap} ({error}). Start the local one with `handrail up`, "
                "or name yours with HANDRAIL_BOOTSTRAP=host:port"
            )


def wait_until_answers(bootstrap: str, within_s: float) -> bool:
    """Whether Kafka answers within that time."""
    try:
        connect(bootstrap, within_s)
    except Unreachable:
        return False
    return True


def _client(bootstrap: str) -> AdminClient:
    return AdminClient(
        {
            "bootstrap.servers": bootstrap,
            "socket.connection.setup.timeout.ms": 2000,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 250,
            "log_level": 0,  # librdkafka would write each failed attempt to stderr; we raise one error
        }
    )


def _error(client: AdminClient, within_s: float) -> str | None:
    try:
        return None if client.list_topics(timeout=within_s).brokers else "no broker is ready yet"
    except KafkaException as error:
        return str(error.args[0].str())
