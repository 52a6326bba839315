"""Asking Kafka which topics it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]
from handrail.errors import Unreachable
from handrail.kafka.admin import connect


def partitions_of(bootstrap: str, topics: Iterable[str], within_s: float) -> Mapping[str, list[int]]:
    """The partitions of each topic. Raises Unreachable when Kafka does not answer or has not all of them."""
    try:
        there = connect(bootstrap, within_s).list_topics(timeout=within_s).topics
    except KafkaException as error:
        raise Unreachable(f"Kafka at {bootstrap} does not answer: {error.args[0].str()}") from error
    missing = [name for name in topics if name not in there]
    if missing:
        raise Unreachable(f"Kafka at {bootstrap} has no topic {', '.join(missing)}: `handrail up` makes the topics")
    return {name: sorted(there[name].partitions) for name in topics}


def ends_of(bootstrap: str, topics: Iterable[str], within_s: float) -> dict[tuple[str, int], int]:
    """Where each partition of the topics ends for a reader of what is committed. Raises Unreachable."""
    there = partitions_of(bootstrap, topics, within_s)
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    wanted = {TopicPartition(name, number): latest for name, numbers in there.items() for number in numbers}
    try:
        admin = connect(bootstrap, within_s)  # kept: without its client an answer never comes
        asked = admin.list_offsets(wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=within_s)
        return {(place.topic, place.partition): future.result().offset for place, future in asked.items()}
    except KafkaException as error:
        raise Unreachable(f"Kafka at {bootstrap} does not answer: {error.args[0].str()}") from error
