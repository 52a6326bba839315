"""What topics there are: their ids and partition counts, and whether a stage's topics fit each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from handrail.errors import ConfigError, Unreachable

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic's id (Kafka's own, new when it is made anew) and partition count."""

    id: str
    partitions: int


def describe(admin: AdminClient) -> dict[str, TopicInfo]:
    """Every topic that is not Kafka's own. Raises Unreachable."""
    try:
        names = [name for name in admin.list_topics(timeout=_TIMEOUT_S).topics if not name.startswith("__")]
        if not names:
            return {}
        futures = admin.describe_topics(TopicCollection(names), request_timeout=_TIMEOUT_S)
        found = {name: future.result() for name, future in futures.items()}
    except KafkaException as error:
        raise Unreachable(f"Kafka did not say what topics it has: {error.args[0].str()}") from error
    return {name: TopicInfo(str(each.topic_id), len(each.partitions)) for name, each in found.items()}


def require_consistent(topics: Mapping[str, TopicInfo], inbox: str, private: Sequence[str]) -> None:
    """Raises ConfigError when a topic is missing, or the inbox and the private topics differ in their partition counts."""
    missing = [topic for topic in (inbox, *private) if topic not in topics]
    if missing:
        raise ConfigError(f"there is no topic {', '.join(missing)}; run `handrail topics provision`")
    wanted = topics[inbox].partitions
    for topic in private:
        if topics[topic].partitions != wanted:
            raise ConfigError(
                f"{inbox} has {wanted} partitions and {topic} has {topics[topic].partitions}: the partition count was "
                "changed, and keys would no longer meet their marks and state. Nothing is read until it is as before; "
                "to grow, make a new inbox and move the flow there"
            )
