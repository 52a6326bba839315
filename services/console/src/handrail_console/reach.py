"""Asking Kafka which topics it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaException
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
