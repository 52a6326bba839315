"""Making a deployment's topics and starting offsets. Idempotent; refuses what would break keys' places."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its re-exports are not marked as such
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from handrail.contracts import Contracts
from handrail.errors import ConfigError, HandrailError, Unreachable
from handrail.kafka.admin import connect
from handrail.kafka.topics import GroupSpec, Source, TopicSpec, Topology, topology
from handrail.kafka.topics_file import TopicsFile
from handrail.settings import Settings

T = TypeVar("T")

REQUEST_S = 30.0
_SOON = {
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
}


@dataclass(frozen=True, slots=True)
class Report:
    """What provisioning did: topics created, topics whose settings it changed, and offsets committed per group."""

    created: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    offsets: Mapping[str, int] = field(default_factory=dict)


def provision(bootstrap: str, wanted: Topology) -> Report:
    """Create the missing topics, set settings that differ, and commit an offset (the earliest there is) for every
    partition of every group that has none.

    Raises ConfigError when a topic has another partition count, before anything is changed; Unreachable when Kafka does
    not answer; HandrailError when it refuses.
    """
    client = connect(bootstrap)
    have = partition_counts(client)
    _refuse_changed_counts(wanted.topics, have)
    created = _create(client, [topic for topic in wanted.topics if topic.name not in have], wanted.replication)
    have = _wait_for_topics(client, wanted.topics)
    _refuse_changed_counts(wanted.topics, have)
    changed = _align_settings(client, [topic for topic in wanted.topics if topic.name not in created])
    return Report(tuple(created), tuple(changed), _commit_starts(client, bootstrap, wanted.groups, have))


def load_topology(settings: Settings) -> Topology:
    """What the project's flows, systems and topics.yaml ask for. Raises ConfigError."""
    from handrail.flow import Flows  # only here: provisioning by plain values needs no flows

    flows = Flows.load(settings.flows, settings.systems, Contracts.load(settings.contracts))
    sources: set[Source] = set()
    for name in flows.names():
        for version in flows.versions(name):
            if flow := flows.get(name, version):
                sources.add((name, source_topic(flow.trigger.contract)))
    return topology(TopicsFile.load(settings.topics), sorted(sources), sorted(flows.systems))


def source_topic(contract: str) -> str:
    """`orders/order-accepted.v1` arrives on `ingest.orders.order-accepted`, whatever its version."""
    domain, _, event = contract.partition("/")
    return f"ingest.{domain}.{event.rpartition('.v')[0]}"


def partition_counts(client: AdminClient) -> dict[str, int]:
    """How many partitions each topic has. Raises Unreachable, HandrailError."""
    try:
        topics = client.list_topics(timeout=REQUEST_S).topics
    except KafkaException as error:
        raise _problem("can't list topics", error) from error
    return {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None}


def _refuse_changed_counts(wanted: Iterable[TopicSpec], have: Mapping[str, int]) -> None:
    wrong = [topic for topic in wanted if have.get(topic.name, topic.partitions) != topic.partitions]
    if not wrong:
        return
    lines = [f"topic {topic.name} has {have[topic.name]} partitions, {topic.partitions} are wanted" for topic in wrong]
    advice = "Set `partitions` in topics.yaml back to what the topics have, or begin a new deployment."
    if any(topic.kind == "source" for topic in wrong):
        advice += " For a source topic write `sources: {<topic>: {partitions: <as it has>}}` in topics.yaml."
    lines.append("A changed count would send keys to other partitions, away from their state: it is refused.")
    raise ConfigError("\n".join([*lines, advice]))


def _create(client: AdminClient, missing: list[TopicSpec], replication: int) -> list[str]:
    if not missing:
        return []
    new = [NewTopic(topic.name, topic.partitions, replication, config=dict(topic.config)) for topic in missing]
    created = []
    for name, future in client.create_topics(new, operation_timeout=REQUEST_S, request_timeout=REQUEST_S).items():
        try:
            future.result()
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another provisioning at the same time
                raise _problem(f"can't create the topic {name}", error) from error
    return sorted(created)


def _wait_for_topics(client: AdminClient, wanted: Iterable[TopicSpec]) -> dict[str, int]:
    names = {topic.name for topic in wanted}
    deadline = time.monotonic() + REQUEST_S
    while True:
        have = partition_counts(client)
        if names <= have.keys() and all(have[name] for name in names):
            return have
        if time.monotonic() > deadline:
            raise HandrailError(f"topics do not appear: {', '.join(sorted(names - have.keys()))} (look at Kafka's log)")
        time.sleep(0.05)


def _align_settings(client: AdminClient, present: list[TopicSpec]) -> list[str]:
    if not present:
        return []
    resources = {topic.name: ConfigResource(ResourceType.TOPIC, topic.name) for topic in present}
    described = client.describe_configs(list(resources.values()), request_timeout=REQUEST_S)
    now = {one.name: _result(future, f"can't read settings of {one.name}") for one, future in described.items()}
    changes = []
    for topic in present:
        differing = {name: value for name, value in topic.config.items() if now[topic.name][name].value != value}
        if differing:
            entries = [
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                for name, value in differing.items()
            ]
            changes.append(ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries))
    if changes:
        altered = client.incremental_alter_configs(changes, request_timeout=REQUEST_S)
        for resource, future in altered.items():
            _result(future, f"can't change settings of {resource.name}")
    return [resource.name for resource in changes]


def _commit_starts(
    client: AdminClient, bootstrap: str, groups: Iterable[GroupSpec], have: Mapping[str, int]
) -> dict[str, int]:
    by_group: dict[str, list[TopicPartition]] = {}
    for group in groups:
        partitions = [TopicPartition(group.topic, number) for number in range(have[group.topic])]
        by_group.setdefault(group.group, []).extend(partitions)
    with ThreadPoolExecutor(max_workers=4) as pool:
        counts = pool.map(lambda name: _commit_missing(client, bootstrap, name, by_group[name]), by_group)
        return {name: count for name, count in zip(by_group, counts, strict=True) if count}


def _commit_missing(client: AdminClient, bootstrap: str, group: str, partitions: list[TopicPartition]) -> int:
    """Commit the earliest offset where the group has none; returns how many.

    By a consumer that never joins, not by AdminClient: while a fresh broker is still making its offsets topic, an admin
    request that needs the group's coordinator times out, and destroying the client then hangs (librdkafka 2.16).
    """
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False, "log_level": 0}
    )
    try:
        committed = _retried(lambda: consumer.committed(partitions, timeout=REQUEST_S))
        without = [TopicPartition(one.topic, one.partition) for one in committed if one.offset < 0]
        if not without:
            return 0
        # A client may hold the leader that it knows for true for ever: the next one is new.
        clients = chain([client], (connect(bootstrap) for _ in count()))
        starts = _retried(lambda: _earliest(next(clients), without))
        for place in _retried(lambda: consumer.commit(offsets=starts, asynchronous=False)) or []:
            if place.error is not None:
                raise KafkaException(place.error)
        return len(without)
    except KafkaException as error:
        raise _problem(f"can't commit the starting offsets of the group {group}", error) from error
    finally:
        consumer.close()


def _earliest(client: AdminClient, places: list[TopicPartition]) -> list[TopicPartition]:
    earliest: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
    answers = client.list_offsets(dict.fromkeys(places, earliest), request_timeout=REQUEST_S)
    return [TopicPartition(one.topic, one.partition, future.result().offset) for one, future in answers.items()]


def _retried(ask: Callable[[], T]) -> T:
    """A group's coordinator and a new topic's leader need a moment: ask again for up to 30 s. Raises KafkaException."""
    deadline = time.monotonic() + REQUEST_S
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _SOON or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _result(future: Future[Any], what: str) -> Any:
    try:
        return future.result()
    except KafkaException as error:
        raise _problem(what, error) from error


def _problem(what: str, error: KafkaException) -> HandrailError:
    reason: KafkaError = error.args[0]
    text = f"{what}: {reason.str()} ({reason.name()})"
    if reason.code() in {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}:
        return Unreachable(f"{text}: Kafka stopped answering; try again when it is back")
    return HandrailError(text)
