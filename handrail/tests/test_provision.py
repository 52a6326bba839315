"""Provisioning on a real broker."""

import socket
import time
import uuid
from dataclasses import replace

import pytest
from confluent_kafka import Consumer, TopicPartition
from handrail.errors import ConfigError, Unreachable
from handrail.kafka.admin import connect
from handrail.kafka.provision import partition_counts, provision
from handrail.kafka.topics import GroupSpec, TopicSpec, Topology
from handrail.testing.broker import Broker

pytestmark = pytest.mark.kafka


def small_topology() -> Topology:
    name = f"t-{uuid.uuid4().hex[:8]}"
    topic = TopicSpec(name, "inbox", 3, {"retention.ms": "3600000"})
    return Topology((topic,), (GroupSpec(f"{name}.group", name),))


def committed(kafka: Broker, wanted: Topology) -> list[int]:
    group, topic = wanted.groups[0].group, wanted.topics[0]
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group})
    places = consumer.committed([TopicPartition(topic.name, number) for number in range(3)], timeout=20)
    consumer.close()
    return [place.offset for place in places]


def commit(kafka: Broker, wanted: Topology, partition: int, offset: int) -> None:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": wanted.groups[0].group})
    consumer.commit(offsets=[TopicPartition(wanted.topics[0].name, partition, offset)], asynchronous=False)
    consumer.close()


def test_missing_topics_and_offsets_are_made_once(kafka: Broker) -> None:
    wanted = small_topology()
    first = provision(kafka.bootstrap, wanted)
    assert first.created == (wanted.topics[0].name,)
    assert first.offsets == {wanted.groups[0].group: 3}
    assert committed(kafka, wanted) == [0, 0, 0]
    second = provision(kafka.bootstrap, wanted)
    assert (second.created, second.changed, second.offsets) == ((), (), {})


def test_a_group_that_has_read_on_is_never_set_back(kafka: Broker) -> None:
    wanted = small_topology()
    provision(kafka.bootstrap, replace(wanted, groups=()))
    commit(kafka, wanted, partition=1, offset=7)
    assert provision(kafka.bootstrap, wanted).offsets == {wanted.groups[0].group: 2}
    assert committed(kafka, wanted) == [0, 7, 0]


def test_a_changed_setting_is_set_on_the_topic(kafka: Broker) -> None:
    wanted = small_topology()
    provision(kafka.bootstrap, wanted)
    longer = replace(wanted, topics=(replace(wanted.topics[0], config={"retention.ms": "7200000"}),))
    assert provision(kafka.bootstrap, longer).changed == (wanted.topics[0].name,)
    assert provision(kafka.bootstrap, longer).changed == ()


def test_a_changed_partition_count_is_refused_and_nothing_is_made(kafka: Broker) -> None:
    wanted = small_topology()
    provision(kafka.bootstrap, wanted)
    topic = wanted.topics[0]
    new = TopicSpec(f"{topic.name}-new", "inbox", 1, {})
    with pytest.raises(ConfigError, match=f"topic {topic.name} has 3 partitions, 6 are wanted") as raised:
        provision(kafka.bootstrap, replace(wanted, topics=(replace(topic, partitions=6), new)))
    assert "Set `partitions` in topics.yaml back" in str(raised.value)
    assert new.name not in partition_counts(connect(kafka.bootstrap))


def test_kafka_that_is_not_there_is_told_within_ten_seconds() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else gets it
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(Unreachable, match=rf"Kafka does not answer at {address}.*handrail up.*HANDRAIL_BOOTSTRAP"):
            provision(address, Topology())
        assert time.monotonic() - began < 10


def test_a_server_that_accepts_and_says_nothing_is_told_as_soon() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(Unreachable):
            connect(f"127.0.0.1:{silent.getsockname()[1]}", within_s=2)
        assert time.monotonic() - began < 4
