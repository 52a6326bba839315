"""Client settings, each with its reason. All pure."""

from __future__ import annotations

from typing import Any

TRANSACTION_TIMEOUT_S = 15
MESSAGE_TIMEOUT_S = 10
SLOW_COMMIT_S = 2.0
RESTORE_DEADLINE_S = 120.0  # below max.poll.interval.ms
MAX_POLL_INTERVAL_S = 300


def _common(bootstrap: str, client: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": bootstrap,
        "client.id": client,
        "retry.backoff.ms": 10,  # back-to-back commits wait for the last one's end: 103 ms with the default, 12 ms so
        "socket.connection.setup.timeout.ms": 5_000,  # 30 s by default: a restore beside a dead broker took 40 s
        "socket.timeout.ms": 6_000,  # below the time that a call has: a frame that was lost is asked for again within it
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 2_000,
        "log_level": 3,
    }


def stage_consumer(bootstrap: str, stage: str, ordinal: int) -> dict[str, Any]:
    """The consumer of a stage's inbox and replay topic."""
    return _common(bootstrap, f"{stage}-{ordinal}") | {
        "group.id": stage,
        "group.instance.id": f"{stage}-{ordinal}",
        "partition.assignment.strategy": "range",
        "session.timeout.ms": 15_000,
        "heartbeat.interval.ms": 3_000,
        "max.poll.interval.ms": MAX_POLL_INTERVAL_S * 1_000,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",  # never jump silently
        "isolation.level": "read_committed",
        "fetch.wait.max.ms": 100,
        "fetch.queue.backoff.ms": 10,
        "queued.max.messages.kbytes": 16_384,
    }


def stage_producer(bootstrap: str, stage: str, ordinal: int) -> dict[str, Any]:
    """The transactional producer of a stage: the same name after a restart, so that it aborts its own orphan."""
    return _common(bootstrap, f"{stage}-{ordinal}") | {
        "transactional.id": f"{stage}-{ordinal}",
        "transaction.timeout.ms": TRANSACTION_TIMEOUT_S * 1_000,
        "message.timeout.ms": MESSAGE_TIMEOUT_S * 1_000,
        "message.max.bytes": 1_441_792,  # as the topic of dead letters, which takes more than their sources
        "linger.ms": 20,  # a commit flushes at once: this only lets batches fill while a step is producing
        "queue.buffering.max.messages": 200_000,
        "queue.buffering.max.kbytes": 65_536,
        "compression.type": "lz4",
    }


def reader(bootstrap: str, client: str) -> dict[str, Any]:
    """A consumer that reads by assignment and commits nothing: restore, and people's tools."""
    return _common(bootstrap, client) | {
        "group.id": client,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 10,
        "fetch.message.max.bytes": 4_194_304,
        "queued.max.messages.kbytes": 32_768,
    }
