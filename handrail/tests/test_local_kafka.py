"""A real broker on this machine."""

from handrail.kafka.admin import connect
from handrail.testing.broker import Broker


def test_the_fixture_is_a_broker_that_answers(kafka: Broker) -> None:
    assert len(connect(kafka.bootstrap).list_topics(timeout=5).brokers) == 1
