"""What a `Log` promises (handrail.log), asked of both: the one in memory and the one on Kafka."""

from __future__ import annotations

import importlib.util
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from handrail.errors import Aborted, ConfigError, Fenced, Refused
from handrail.log import Batch, Log, Outgoing
from handrail.testing.broker import Broker
from handrail.testing.memory import MemoryLog


def sibling(name: str) -> Any:
    """Another file of this folder: test folders are no packages."""
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert found is not None
        assert found.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[name])
    return sys.modules[name]


logs, rules_wire = sibling("log_world"), sibling("rules_wire")
World, PARTITIONS, WITHIN_S = logs.World, logs.PARTITIONS, logs.WITHIN_S
join, poll_until, take, older = logs.join, logs.poll_until, logs.take, logs.older
transaction, read, values = logs.transaction, logs.read, logs.values

_count = iter(range(10_000))


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def world(request: pytest.FixtureRequest) -> Iterator[Any]:
    stage = f"conformance{next(_count)}-{time.time_ns()}"
    if request.param == "memory":
        made = logs.in_memory(stage)
    else:
        broker: Broker = request.getfixturevalue("kafka")
        made = logs.on_kafka(broker.bootstrap, stage)
    yield made
    made.close()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def unsure(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Callable[[Any, str], AbstractContextManager[None]]]]:
    """A world, and how the next commit of a log comes to be `unknown` (committed, its answer lost) or `late` (under way)."""
    stage = f"conformance{next(_count)}-{time.time_ns()}"
    if request.param == "memory":

        @contextmanager
        def told(log: Any, fate: str) -> Iterator[None]:
            log.fail_next = fate
            yield

        made = logs.in_memory(stage)
        yield made, told
        made.close()
        return
    broker: Broker = request.getfixturevalue("kafka")
    with rules_wire.relay(broker.bootstrap) as wire:

        @contextmanager
        def on_the_wire(_log: Any, fate: str) -> Iterator[None]:
            if fate == "unknown":
                with wire.without("response", rules_wire.END_TXN):
                    yield
                return
            held = wire.hold("request", rules_wire.END_TXN)
            yield
            held.release()

        made = logs.on_kafka(wire.bootstrap, stage)
        yield made, on_the_wire
        made.close()


def test_records_come_in_order_and_no_more_than_asked_for(world: Any) -> None:
    for n in range(5):
        world.publish(world.inbox, 0, b"%d" % n)
    log = world.log()
    join(log)
    first = take(log, 1, limit=2)
    assert 1 <= len(first.records) <= 2
    rest = take(log, 5 - len(first.records), limit=2)
    assert values(first.records + rest.records) == [b"0", b"1", b"2", b"3", b"4"]
    assert [record.offset for record in first.records + rest.records] == [0, 1, 2, 3, 4]


def test_a_commit_writes_outputs_changelogs_and_positions_and_tells_where(world: Any) -> None:
    world.publish(world.inbox, 0, b"x")
    log = world.log()
    join(log)
    batch = take(log, 1)
    written = log.commit(transaction(world, batch.membership, {0: 1}))
    assert log.committed([0, 1]) == {0: 1, 1: 0}
    assert values(read(log, world.out)) == [b"done"]
    assert written.ends[world.private("state"), 0] == 1
    assert written.times[world.private("marks"), 0] > 0
    assert {where[0] for where in written.ends} == {world.private("state"), world.private("marks")}


def test_after_a_restart_it_goes_on_behind_what_was_committed(world: Any) -> None:
    for n in range(3):
        world.publish(world.inbox, 0, b"%d" % n)
    log = world.log()
    join(log)
    batch = take(log, 3)
    log.commit(transaction(world, batch.membership, {0: 2}))
    log.close()
    world.logs.clear()
    again = world.log()
    join(again)
    assert values(take(again, 1).records) == [b"2"]


def test_resume_seeks_back_to_what_was_not_committed(world: Any) -> None:
    world.publish(world.inbox, 0, b"x")
    log = world.log()
    join(log)
    take(log, 1)
    log.resume({0: (0, 0), 1: (0, 0)})
    assert values(take(log, 1).records) == [b"x"]


def test_a_commit_of_an_older_generation_is_refused_and_leaves_nothing(world: Any) -> None:
    world.publish(world.inbox, 0, b"x")
    log = world.log()
    join(log)
    batch = take(log, 1)
    with pytest.raises(Aborted):
        log.commit(transaction(world, older(batch.membership), {0: 1}))
    log.renew()
    assert values(read(log, world.out)) == []
    assert values(read(log, world.private("state"))) == []
    assert log.committed([0]) == {0: 0}
    log.resume({0: (0, 0), 1: (0, 0)})
    again = take(log, 1)
    log.commit(transaction(world, again.membership, {0: 1}, b"second"))
    assert values(read(log, world.out)) == [b"second"]


def test_a_newer_log_of_the_same_name_fences_the_older(world: Any) -> None:
    world.publish(world.inbox, 0, b"x")
    old = world.log()
    join(old)
    batch = take(old, 1)
    new = world.log()
    with pytest.raises(Fenced):
        old.commit(transaction(world, batch.membership, {0: 1}, b"zombie"))
    joined = poll_until(new, lambda each: bool(each.assigned))
    with pytest.raises(Fenced):
        poll_until(old, lambda each: False)
    new.resume(dict.fromkeys(joined.assigned, (0, 0)))
    taken = take(new, 1)
    new.commit(transaction(world, taken.membership, {0: 1}, b"new"))
    assert values(read(new, world.out)) == [b"new"]


def test_a_restore_reads_to_the_very_end_over_the_end_of_a_transaction(world: Any) -> None:
    """The last record of a transactional log is its control record, which no reader sees."""
    log = world.log()
    batch = join(log)
    for n in range(3):
        log.commit(transaction(world, batch.membership, {0: 0}, b"%d" % n))
    assert values(read(log, world.private("state"))) == [b"0", b"1", b"2"]


def test_a_restore_reads_its_span_and_no_more(world: Any) -> None:
    topic = world.private("state")
    for n in range(6):
        world.publish(topic, 0, b"%d" % n)
    log = world.log()
    assert values([record for some in log.read({(topic, 0): (2, 4)}) for record in some]) == [b"2", b"3"]
    assert list(log.read({})) == []


def test_bounds_are_those_of_each_partition(world: Any) -> None:
    topic = world.private("state")
    world.publish(topic, 1, b"x")
    log = world.log()
    assert log.bounds([(topic, 0), (topic, 1)]) == {(topic, 0): (0, 0), (topic, 1): (0, 1)}


def test_a_partition_on_hold_delivers_nothing_until_resume(world: Any) -> None:
    log = world.log()
    join(log)
    log.hold(0)
    world.publish(world.inbox, 0, b"held")
    world.publish(world.private("replay"), 0, b"held, too")
    world.publish(world.inbox, 1, b"flows")
    assert values(take(log, 1).records) == [b"flows"]
    world.publish(world.inbox, 1, b"flows on")
    assert values(take(log, 1).records) == [b"flows on"]
    log.resume({0: (0, 0), 1: (2, 0)})
    assert sorted(values(take(log, 2).records)) == [b"held", b"held, too"]


def test_without_room_nothing_is_taken_and_nothing_lost(world: Any) -> None:
    world.publish(world.inbox, 0, b"x")
    log = world.log()
    join(log)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        assert log.poll(0, 0.05).records == []
        if isinstance(log, MemoryLog):
            break
    log.hold(1)
    assert values(take(log, 1).records) == [b"x"]
    assert log.poll(0, 0.05).records == []
    world.publish(world.inbox, 0, b"y")
    assert values(take(log, 1).records) == [b"y"]


def test_the_replay_topic_is_read_from_the_position_given(world: Any) -> None:
    for n in range(3):
        world.publish(world.private("replay"), 1, b"%d" % n)
    log = world.log()
    join(log, {0: (0, 0), 1: (0, 1)})
    taken = take(log, 2)
    assert values(taken.records) == [b"1", b"2"]
    assert {(record.topic, record.partition) for record in taken.records} == {(world.private("replay"), 1)}


def test_no_position_is_a_config_error_that_says_what_to_do(world: Any) -> None:
    log = world.open(f"{world.stage}-unknown", world.inbox, 0)
    world.logs.append(log)
    poll_until(log, lambda batch: bool(batch.assigned))
    with pytest.raises(ConfigError, match="handrail topics provision"):
        log.committed([0])


def test_lag_is_what_is_left(world: Any) -> None:
    for n in range(4):
        world.publish(world.inbox, 0, b"%d" % n)
    log = world.log()
    join(log)
    take(log, 4)
    poll_until(log, lambda _: log.lag({}).get(0) == 0)
    assert log.lag({}) in ({0: 0, 1: 0}, {0: 0})
    assert log.lag({0: 1})[0] == 3


def test_it_says_when_the_group_counts_it_in(world: Any) -> None:
    log = world.log()
    assert not log.joined()
    join(log)
    assert log.joined()


# --- transactions of others


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_what_an_open_transaction_wrote_is_delivered_when_it_has_committed_and_never_when_not(
    world: Any, end: str
) -> None:
    stranger = world.stranger(f"{world.stage}-stranger")
    stranger.produce(world.inbox, b"open")
    world.publish(world.inbox, 0, b"behind")
    log = world.log()
    join(log)
    world.publish(world.inbox, 1, b"elsewhere")
    assert values(take(log, 1).records) == [b"elsewhere"], "it hides what stands behind it, and in no other partition"
    assert log.poll(10, 0.2).records == []
    (stranger.commit if end == "commit" else stranger.abort)()
    wanted = [b"open", b"behind"] if end == "commit" else [b"behind"]
    assert values(take(log, len(wanted)).records) == wanted


def test_an_open_transaction_hides_committed_records_so_a_restore_gives_up_at_its_deadline(world: Any) -> None:
    topic = world.private("state")
    stranger = world.stranger(f"{world.stage}-stranger")
    stranger.produce(topic, b"open")
    world.publish(topic, 0, b"hidden")
    log = world.log(restore_deadline_s=1.0)
    assert log.bounds([(topic, 0)]) == {(topic, 0): (0, 2)}, "the high watermark is the read-uncommitted one"
    with pytest.raises(Aborted, match="restore did not reach"):
        read(log, topic)
    stranger.abort()
    assert values(read(log, topic)) == [b"hidden"]


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_a_restore_waits_for_an_open_transaction_to_end(world: Any, end: str) -> None:
    topic = world.private("state")
    stranger = world.stranger(f"{world.stage}-stranger")
    stranger.produce(topic, b"open")
    world.publish(topic, 0, b"hidden")
    log = world.log()
    chunks = log.read(log.bounds([(topic, 0)]))
    assert next(chunks) == [], "nothing can be seen behind it yet"
    (stranger.commit if end == "commit" else stranger.abort)()
    found = values([record for some in chunks for record in some])
    assert found == ([b"open", b"hidden"] if end == "commit" else [b"hidden"])


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_positions_that_stay_undecided_are_an_abort_and_no_guess(
    world: Any, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A position that is read while a former owner commits must not be the one from before, nor called missing."""
    monkeypatch.setattr("handrail.kafka.log._INIT_S", 2.0)
    owner = world.log()
    batch = join(owner)
    stranger = world.stranger(f"{world.stage}-stranger")
    stranger.send_offset(batch.membership, 7)
    with pytest.raises(Aborted):
        owner.committed([0, 1])
    (stranger.commit if end == "commit" else stranger.abort)()
    assert owner.committed([0, 1]) == {0: 7 if end == "commit" else 0, 1: 0}


# --- a newer producer


def test_a_newer_log_aborts_what_an_older_one_of_its_name_left_open(world: Any) -> None:
    """As after a crash between produce and commit: nobody has to wait for the transaction's time-out."""
    orphan = world.stranger(f"{world.stage}-0")
    orphan.produce(world.out, b"orphan")
    orphan.produce(world.private("state"), b"orphan")
    log = world.log()
    batch = join(log)
    assert log.committed([0]) == {0: 0}
    log.commit(transaction(world, batch.membership, {0: 0}, b"mine"))
    assert values(read(log, world.out)) == [b"mine"]
    assert values(read(log, world.private("state"))) == [b"mine"]


def test_a_commit_of_which_nobody_knows_has_happened_wholly_or_not_at_all_once_the_producer_is_new(
    unsure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer is lost, or it is still under way: it lands before the new producer fences it, or never."""
    world, trouble = unsure
    log = world.log()
    batch = join(log)
    for number, fate in enumerate(("unknown", "late", "unknown", "late"), start=1):
        before = log.committed([0])[0]
        with trouble(log, fate):
            with monkeypatch.context() as short:
                short.setattr("handrail.kafka.settings.TRANSACTION_TIMEOUT_S", 2.0)
                with pytest.raises(Aborted):
                    log.commit(transaction(world, batch.membership, {0: number}, b"%d" % number))
            log.renew()
        position = log.committed([0])[0]
        assert position == number if fate == "unknown" else position in (before, number)
        landed = position == number
        for topic in (world.out, world.private("state")):
            assert (b"%d" % number in values(read(log, topic))) == landed
    log.commit(transaction(world, batch.membership, {0: 9}, b"9"))
    assert values(read(log, world.out))[-1] == b"9"


def test_an_output_that_is_refused_aborts_the_whole_batch_and_says_so(world: Any) -> None:
    log = world.log()
    batch = join(log)
    wanted = transaction(world, batch.membership, {0: 0})
    wanted.outputs.append(Outgoing(world.out, 0, b"k", random.Random(1).randbytes(1_300_000)))
    with pytest.raises(Refused):
        log.commit(wanted)
    log.renew()
    assert values(read(log, world.out)) == []
    assert values(read(log, world.private("state"))) == []
    log.commit(transaction(world, batch.membership, {0: 0}, b"next"))
    assert values(read(log, world.out)) == [b"next"]


# --- two members


def share(one: Log, two: Log) -> tuple[Batch, Batch]:
    """Poll both until each has one partition; the last batch of each, with its membership."""
    together = [Batch([]), Batch([])]
    deadline = time.monotonic() + WITHIN_S
    while [len(batch.assigned) for batch in together] != [1, 1]:
        assert time.monotonic() < deadline, f"not shared out: {together}"
        for batch, log in zip(together, (one, two), strict=True):
            polled = log.poll(10, 0.1)
            assert not (polled.records and (polled.assigned or polled.revoked))
            batch.assigned = polled.assigned or (() if polled.revoked else batch.assigned)
            batch.membership = polled.membership
    return together[0], together[1]


def test_two_members_share_the_partitions_and_a_batch_from_before_can_not_be_committed(world: Any) -> None:
    for partition in range(PARTITIONS):
        world.publish(world.inbox, partition, b"x")
    one = world.log(0)
    join(one)
    former = take(one, 2)
    two = world.log(1)
    first, second = share(one, two)
    assert {*first.assigned, *second.assigned} == {0, 1}
    with pytest.raises(Aborted):
        one.commit(transaction(world, former.membership, {0: 1, 1: 1}, b"zombie"))
    one.renew()
    assert one.committed([0, 1]) == {0: 0, 1: 0}
    for log, batch, name in ((one, first, b"one"), (two, second, b"two")):
        (mine,) = batch.assigned
        log.resume({mine: (0, 0)})
        taken = take(log, 1)
        assert {record.partition for record in taken.records} == {mine}
        log.commit(transaction(world, taken.membership, {mine: 1}, name))
    assert sorted(values(read(one, world.out))) == [b"one", b"two"]
    assert one.committed([0, 1]) == {0: 1, 1: 1}
