"""What Kafka's clients and the topics are told: the relations that the rules ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import libversion
from handrail.errors import ConfigError
from handrail.kafka import settings
from handrail.kafka.topics_file import TopicsFile
from handrail.settings import DEFAULT_PHASE_LIMIT_S

NAME = "flow.transform"
TOPICS = (Path(__file__).parents[2] / "deploy" / "kafka" / "topics.yaml").read_text()


def with_window(window: str) -> TopicsFile:
    assert "dedupe_window: 14d" in TOPICS
    assert TOPICS.count("retention.ms: 7d") == 2, "of source and inbox"
    return TopicsFile.parse(TOPICS.replace("dedupe_window: 14d", f"dedupe_window: {window}"), "topics.yaml")


def test_a_window_that_is_not_longer_than_records_can_be_read_again_is_refused_at_the_start() -> None:
    """Every service reads this file before it starts a stage, and provisioning does."""
    for window in ("7d", "6d"):
        with pytest.raises(ConfigError, match=r"retention\.ms: not shorter than dedupe_window"):
            with_window(window)
    assert with_window("14d").dedupe_window_ms == 14 * 24 * 3_600_000


def test_a_window_that_is_not_longer_than_retention_and_the_oldest_retry_is_refused_at_the_start() -> None:
    """Read on its last day, then retried for a day: its mark is missed by a copy that is read on time."""
    with pytest.raises(ConfigError, match="dedupe_window"):
        with_window("169h")


def test_the_clients_settings_are_those_that_the_rules_ask_for() -> None:
    consumer, producer = settings.stage_consumer("b", NAME, 3), settings.stage_producer("b", NAME, 3)
    reader = settings.reader("b", "r")
    assert producer["transactional.id"] == consumer["group.instance.id"] == f"{NAME}-3", "stable over restarts"
    assert producer["transaction.timeout.ms"] == 15_000
    assert producer["message.timeout.ms"] < producer["transaction.timeout.ms"]
    assert producer["retry.backoff.ms"] == consumer["retry.backoff.ms"] == 10
    for each in (consumer, reader):
        assert each["isolation.level"] == "read_committed"
        assert each["auto.offset.reset"] == "error"
        assert each["enable.auto.commit"] is False
        assert each["enable.auto.offset.store"] is False
    assert consumer["max.poll.interval.ms"] > settings.RESTORE_DEADLINE_S * 1_000
    assert 2 * settings.TRANSACTION_TIMEOUT_S == DEFAULT_PHASE_LIMIT_S


def test_the_client_library_is_new_enough_not_to_move_positions_on_errors() -> None:
    """librdkafka#5213 is mended in 2.13.2."""
    assert libversion()[1] >= 0x020D02FF
