"""The publisher notes what Kafka has acknowledged, and where it stands."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from handrail.local.kafka import LocalKafka
from handrail.local.ports import free_port
from handrail_chaos.publishing import TOPIC, Publisher
from handrail_chaos.stream import Stream
from handrail_demo.plain import PlainContracts

PLAIN = PlainContracts(Path(__file__).parents[2] / "contracts")
WITHIN_S = 60.0


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_everything_that_was_acknowledged_has_its_place_also_what_was_told_without_one(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka", free_port()) as kafka:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        topic = NewTopic(TOPIC, 4, 1, config={"max.message.bytes": "2000000"})
        for future in admin.create_topics([topic]).values():
            future.result(WITHIN_S)
        publisher = Publisher(kafka.bootstrap, Stream(1, PLAIN.encode), 4, tmp_path / "sent.jsonl", lambda: True)
        publisher.limit, publisher.rate = 200, 5_000.0
        publisher.start()
        deadline = time.monotonic() + WITHIN_S
        while publisher.acknowledged < 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        known = [(one.partition, one.offset) for one in publisher.published]
        forget(publisher, [3, 50, 120])
        told = publisher.finish()
    assert sorted((one.partition, one.offset) for one in told) == sorted(known)
    assert [told[index].key for index in (3, 50, 120)] == [publisher.published[index].key for index in (3, 50, 120)]
    lines = [json.loads(line) for line in (tmp_path / "sent.jsonl").read_text().splitlines()]
    assert [(line["partition"], line["offset"]) for line in lines] == [(one.partition, one.offset) for one in told]


def forget(publisher: Publisher, indexes: list[int]) -> None:
    """As if these had been acknowledged as duplicates, without an offset: the same records by the same stream."""
    stream = Stream(1, PLAIN.encode)
    sent = [stream.next() for _ in range(200)]
    for index in indexes:
        one = publisher.published[index]
        same = [each for each in sent if (each.identity, each.kind, each.key) == (one.identity, one.kind, one.key)]
        publisher.published[index] = replace(one, offset=None)
        publisher.unplaced[index] = same[0]
