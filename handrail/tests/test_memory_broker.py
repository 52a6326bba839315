"""The twin of Kafka: what an open, committed, aborted or late transaction does to those who read, and who fences whom."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from handrail.errors import Aborted, ConfigError, Fenced, Refused
from handrail.log import Batch, Outgoing, Transaction
from handrail.testing.memory import Fate, MemoryBroker, MemoryLog


@pytest.fixture
def broker() -> MemoryBroker:
    made = MemoryBroker(partitions=dict.fromkeys(("in", "out", "s.state", "s.marks", "s.delayed", "s.replay"), 2))
    for partition in range(2):
        made.provision("s", partition)
    return made


def record(value: bytes = b"v", key: bytes | None = b"k", topic: str = "out") -> Outgoing:
    return Outgoing(topic, 0, key, value)


def values(broker: MemoryBroker, topic: str = "out") -> list[bytes | None]:
    return [each.value for each in broker.records(topic)]


def joined(broker: MemoryBroker, ordinal: int = 0) -> tuple[MemoryLog, Batch]:
    """A log that has joined and goes on from what was committed."""
    log = MemoryLog(broker, "s", "in", ordinal=ordinal)
    batch = log.poll(10, 0)
    log.resume({partition: (offset, 0) for partition, offset in log.committed(list(batch.assigned)).items()})
    return log, batch


def work(batch: Batch, offset: int = 1, value: bytes = b"v") -> Transaction:
    changes = [Outgoing("s.state", 0, b"k", value), Outgoing("s.marks", 0, None, bytes(16))]
    return Transaction([record(value)], changes, {0: offset}, batch.membership)


# --- transactions


def test_an_open_transaction_takes_offsets_and_hides_what_was_committed_behind_it(broker: MemoryBroker) -> None:
    other = broker.producer("other")
    other.produce(record(b"open"))
    broker.append(record(b"behind"))
    log = broker.log(("out", 0))
    assert (log.stable(), log.end) == (0, 2)
    assert values(broker) == []
    other.commit()
    assert values(broker) == [b"open", b"behind"]
    assert log.end == 3, "the marker that ends it takes an offset"


def test_what_was_aborted_is_never_seen(broker: MemoryBroker) -> None:
    other = broker.producer("other")
    other.produce(record(b"aborted"))
    other.abort()
    broker.append(record(b"next"))
    assert values(broker) == [b"next"]


def test_a_newer_producer_of_the_same_name_aborts_what_the_older_has_open_and_fences_it(broker: MemoryBroker) -> None:
    old = broker.producer("same")
    old.produce(record(b"old"))
    new = broker.producer("same")
    with pytest.raises(Fenced):
        old.produce(record(b"zombie"))
    with pytest.raises(Fenced):
        old.commit()
    new.produce(record(b"new"))
    new.commit()
    assert values(broker) == [b"new"]


def test_a_late_commit_counts_when_it_arrives_before_the_next_producer_and_never_after(broker: MemoryBroker) -> None:
    early = broker.producer("early")
    early.produce(record(b"early"))
    request = early.ask_to_commit()
    assert values(broker) == []
    assert broker.transactions.deliver(request) == "committed"
    late = broker.producer("late")
    late.produce(record(b"late"))
    request = late.ask_to_commit()
    broker.producer("late")
    assert broker.transactions.deliver(request) == "fenced"
    assert values(broker) == [b"early"]


def test_a_copy_of_a_commit_ends_the_next_transaction_of_the_same_producer(broker: MemoryBroker) -> None:
    """librdkafka#5423: why a producer is not used on after a slow commit."""
    producer = broker.producer("slow")
    producer.produce(record(b"first"))
    producer.commit()
    copy = producer.ask_to_commit()
    producer.produce(record(b"half"))
    assert broker.transactions.deliver(copy) == "committed"
    assert values(broker) == [b"first", b"half"]


def test_a_transaction_that_is_open_for_too_long_is_aborted_and_its_producer_fenced(broker: MemoryBroker) -> None:
    producer = broker.producer("hung")
    producer.produce(record(b"hung"))
    broker.advance(15_000)
    assert broker.transactions.open() == ["hung"]
    broker.advance(1)
    assert broker.transactions.open() == []
    with pytest.raises(Fenced):
        producer.produce(record(b"more"))


# --- a log's commits


@pytest.mark.parametrize(("fate", "there"), [("produce", 0), ("aborted", 0), ("late", 0), ("unknown", 1)])
def test_each_fate_of_a_commit_writes_all_or_nothing(broker: MemoryBroker, fate: Fate, there: int) -> None:
    log, batch = joined(broker)
    log.fail_next = fate
    with pytest.raises(Aborted):
        log.commit(work(batch))
    log.renew()
    assert len(values(broker)) == len(values(broker, "s.state")) == len(values(broker, "s.marks")) == there
    assert log.committed([0]) == {0: there}
    log.commit(work(batch, 2))
    assert len(values(broker)) == there + 1


def test_a_late_commit_that_arrives_before_the_new_producer_has_committed_all(broker: MemoryBroker) -> None:
    log, batch = joined(broker)
    log.fail_next = "late"
    with pytest.raises(Aborted):
        log.commit(work(batch))
    broker.meanwhile = lambda: [broker.transactions.deliver(each) for each in broker.transactions.in_flight] and None
    log.renew()
    assert values(broker) == [b"v"]
    assert log.committed([0]) == {0: 1}


def test_after_a_slow_commit_the_copy_that_is_under_way_can_do_no_harm(broker: MemoryBroker) -> None:
    log, batch = joined(broker)
    log.fail_next = "slow"
    log.commit(work(batch))
    (copy,) = broker.transactions.in_flight
    assert broker.transactions.deliver(copy) == "fenced"
    assert values(broker) == [b"v"]


def test_what_is_larger_than_the_broker_takes_is_refused(broker: MemoryBroker) -> None:
    broker.largest = 100
    log, batch = joined(broker)
    with pytest.raises(Refused, match="101 bytes"):
        log.commit(work(batch, value=bytes(100)))
    log.renew()
    assert values(broker) == []


# --- groups


def test_two_members_share_the_partitions_when_both_have_let_go_and_joined(broker: MemoryBroker) -> None:
    one, first = joined(broker)
    assert first.assigned == (0, 1)
    two = MemoryLog(broker, "s", "in", ordinal=1)
    assert two.poll(10, 0).assigned == (), "the other has not let go yet"
    moved = one.poll(10, 0)
    assert (moved.revoked, moved.assigned, moved.records) == ((0, 1), (0,), [])
    assert two.poll(10, 0).assigned == (1,)


def test_a_member_whose_session_timed_out_can_commit_nothing_and_joins_anew(broker: MemoryBroker) -> None:
    zombie, batch = joined(broker)
    other = MemoryLog(broker, "s", "in", ordinal=1)
    other.poll(10, 0)
    broker.group("s", "in").expel("s-0")
    assert other.poll(10, 0).assigned == (0, 1)
    with pytest.raises(Aborted):
        zombie.commit(work(batch))
    zombie.renew()
    assert values(broker) == []
    assert zombie.poll(10, 0).revoked == (0, 1)


def test_a_restart_takes_its_place_without_a_rebalance_and_fences_the_older_process(broker: MemoryBroker) -> None:
    old, batch = joined(broker)
    new, again = joined(broker)
    assert again.assigned == batch.assigned
    assert again.membership.generation == batch.membership.generation
    with pytest.raises(Fenced):
        old.poll(10, 0)
    with pytest.raises(Fenced):
        old.commit(work(batch))
    new.commit(work(again))
    assert values(broker) == [b"v"]


def test_more_members_than_partitions_leave_one_without(broker: MemoryBroker) -> None:
    logs = [MemoryLog(broker, "s", "in", ordinal=ordinal) for ordinal in range(3)]
    shares: dict[int, tuple[int, ...]] = {}
    for _ in range(3):
        for ordinal, log in enumerate(logs):
            batch = log.poll(10, 0)
            shares[ordinal] = batch.assigned or (() if batch.revoked else shares.get(ordinal, ()))
    assert shares == {0: (0,), 1: (1,), 2: ()}


# --- waiting


def test_positions_are_told_only_when_no_transaction_may_change_them(broker: MemoryBroker) -> None:
    log, batch = joined(broker)
    log.fail_next = "aborted"
    with pytest.raises(Aborted):
        log.commit(work(batch))
    with pytest.raises(Aborted, match="still open"):
        log.committed([0])
    broker.meanwhile = lambda: broker.advance(15_001)
    assert log.committed([0]) == {0: 0}


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_a_read_waits_for_an_open_transaction_and_gives_up_when_it_stays(broker: MemoryBroker, end: str) -> None:
    log, _ = joined(broker)
    broker.append(record(b"before", topic="s.state"))
    other = broker.producer("other")
    other.produce(record(b"open", topic="s.state"))
    broker.append(record(b"behind", topic="s.state"))
    spans = log.bounds([("s.state", 0)])
    assert spans == {("s.state", 0): (0, 3)}
    with pytest.raises(Aborted, match="restore did not reach"):
        list(log.read(spans))
    waited: Callable[[], None] = other.commit if end == "commit" else other.abort
    broker.meanwhile = lambda: waited() if broker.transactions.open() else None
    found = [each.value for some in log.read(spans) for each in some]
    assert found == [b"before", *([b"open"] if end == "commit" else []), b"behind"]


# --- time


def test_records_have_the_time_of_the_broker_even_when_its_clock_jumps(broker: MemoryBroker) -> None:
    for now in (5_000, 1_000):
        broker.now = now
        broker.append(record())
    assert [each.timestamp for each in broker.records("out")] == [5_000, 1_000]


def test_compaction_keeps_the_newest_committed_record_of_each_key_at_its_offset(broker: MemoryBroker) -> None:
    for value, key in ((b"1", b"a"), (b"2", b"b"), (b"3", b"a")):
        broker.append(record(value, key))
    other = broker.producer("other")
    other.produce(record(b"aborted", b"b"))
    other.abort()
    broker.append(Outgoing("out", 0, b"b", None))
    broker.append(record(b"last", b"c"))
    broker.compact("out")
    assert [(each.offset, each.value) for each in broker.records("out")] == [(2, b"3"), (5, None), (6, b"last")]
    broker.compact("out", tombstones=True)
    assert [each.offset for each in broker.records("out")] == [2, 6]
    assert broker.log(("out", 0)).low == 0


def test_compaction_touches_nothing_from_the_first_open_transaction_on(broker: MemoryBroker) -> None:
    broker.append(record(b"1", b"a"))
    other = broker.producer("other")
    other.produce(record(b"2", b"a"))
    broker.compact("out")
    other.abort()
    assert values(broker) == [b"1"]


def test_what_has_expired_unread_is_not_jumped_over(broker: MemoryBroker) -> None:
    log, _ = joined(broker)
    broker.append(record(b"old", topic="in"))
    broker.advance(10_000)
    broker.append(record(b"new", topic="in"))
    broker.expire("in", 5_000)
    assert log.bounds([("in", 0)]) == {("in", 0): (1, 2)}
    with pytest.raises(ConfigError, match="no longer there"):
        log.poll(10, 0)
