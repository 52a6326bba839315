"""What only a real broker can do to a log."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from handrail.errors import Aborted, ConfigError
from handrail.kafka.log import KafkaLog
from handrail.log import Outgoing, Transaction
from handrail.testing.broker import Broker, EmbeddedBroker


def sibling(name: str) -> Any:
    """Another file of this folder: test folders are no packages."""
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert found is not None
        assert found.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[name])
    return sys.modules[name]


logs = sibling("log_world")
PARTITIONS, WITHIN_S = logs.PARTITIONS, logs.WITHIN_S
join, poll_until, take, older = logs.join, logs.poll_until, logs.take, logs.older
transaction, read, values = logs.transaction, logs.read, logs.values

_count = iter(range(10_000))


@pytest.fixture
def kafka_world(kafka: Broker) -> Iterator[Any]:
    made = logs.on_kafka(kafka.bootstrap, f"real{next(_count)}-{time.time_ns()}")
    yield made
    made.close()


@pytest.mark.kafka
@pytest.mark.parametrize("end", ["commit", "abort"])
def test_positions_wait_for_a_pending_transaction_of_a_former_owner(kafka_world: Any, end: str) -> None:
    """A position that is read while the former owner commits must not be the one from before, nor called missing."""
    owner = kafka_world.log()
    batch = join(owner)
    stranger = kafka_world.stranger(f"{kafka_world.stage}-stranger")
    stranger.send_offset(batch.membership, 7)
    found: list[dict[int, int] | Exception] = []

    def ask() -> None:
        try:
            found.append(owner.committed([0, 1]))
        except Exception as error:
            found.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(1.0)
    early = list(found)
    (stranger.commit if end == "commit" else stranger.abort)()
    asking.join(WITHIN_S)
    assert early == [], "it does not guess"
    assert found == [{0: 7 if end == "commit" else 0, 1: 0}]


class Trusting(KafkaLog):
    """Does not look at its own membership, so that the broker has to."""

    def _check_membership(self, membership: bytes) -> None:
        """Nothing."""


@pytest.mark.kafka
def test_the_broker_itself_refuses_an_older_generation(kafka_world: Any) -> None:
    log = Trusting(kafka_world.bootstrap, kafka_world.stage, 0, kafka_world.inbox)
    kafka_world.logs.append(log)
    batch = join(log)
    with pytest.raises(Aborted):
        log.commit(transaction(kafka_world, older(batch.membership), {0: 5}))
    log.renew()
    assert log.committed([0]) == {0: 0}
    assert values(read(log, kafka_world.out)) == []


@pytest.mark.kafka
def test_a_position_that_has_expired_is_not_jumped_over(kafka_world: Any) -> None:
    log = kafka_world.log()
    poll_until(log, lambda each: bool(each.assigned))
    log.resume({0: (1_000, 0), 1: (0, 0)})
    with pytest.raises(ConfigError, match="no longer there"):
        poll_until(log, lambda each: False)


@pytest.mark.kafka
def test_many_outputs_wait_for_room_in_the_local_queue(kafka_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from handrail.kafka import settings

    small = settings.stage_producer
    monkeypatch.setattr(settings, "stage_producer", lambda *given: small(*given) | {"queue.buffering.max.messages": 50})
    log = kafka_world.log()
    batch = join(log)
    many = [Outgoing(kafka_world.out, n % 2, b"k", b"%d" % n) for n in range(2_000)]
    log.commit(Transaction(many, [], {0: 0}, batch.membership))
    assert sorted(int(value or b"") for value in values(read(log, kafka_world.out))) == list(range(2_000))


@pytest.mark.kafka
def test_the_ends_are_found_again_however_often_the_broker_was_killed(tmp_path: Path) -> None:
    """A client that is told "leader epoch is older than broker epoch" may hold on to the old leader for ever."""
    broker = EmbeddedBroker(tmp_path / "kafka")
    broker.start()
    try:
        world = logs.on_kafka(broker.bootstrap, f"epochs-{time.time_ns()}")
        log = world.log()
        where = [(f"{world.stage}.state", 0), (f"{world.stage}.state", 1)]
        before = log.bounds(where)
        for _ in range(2):
            broker.kill()
            broker.start()
            assert log.bounds(where) == before
        world.close()
    finally:
        broker.stop()
