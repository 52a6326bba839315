"""Processes that hang, sleep, die and come back, and what they find when they start: nothing lost, nothing twice."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from confluent_kafka import Consumer, ConsumerGroupState
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)
from handrail.testing.broker import Broker


def sibling(name: str) -> Any:
    """Another file of this folder: test folders are no packages."""
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert found is not None
        assert found.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[name])
    return sys.modules[name]


crash_world, stories = sibling("crash_world"), sibling("rules_stories")
ends, said, says, stop, wait, story = (
    crash_world.ends,
    crash_world.said,
    crash_world.says,
    crash_world.stop,
    crash_world.wait,
    stories.story,
)

pytestmark = pytest.mark.kafka
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    def world(name: str, folder: Path, partitions: int) -> Any:
        return crash_world.CrashWorld(kafka.bootstrap, name, folder, partitions)

    with stories.started(request, tmp_path_factory, world) as bodies:
        yield bodies


def ordinal(number: int) -> dict[str, str]:
    return {"HANDRAIL_ORDINAL": str(number)}


def owns(process: Any) -> list[int] | None:
    """The partitions that it restored last; None before its first restore."""
    restored = said(process, "restored")
    return restored[-1]["partitions"] if restored else None


def shares(world: Any) -> list[int]:
    """How many partitions each member of the group has, by the broker's word; nothing during a rebalance."""
    (future,) = world.admin.describe_consumer_groups([world.stage]).values()
    group = future.result(30)
    is_stable = group.state == ConsumerGroupState.STABLE
    return [len(member.assignment.topic_partitions) for member in group.members] if is_stable else []


def is_stopped(process: Any) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


# --- slow, hung, asleep


@story(partitions=2)
def test_a_handler_that_never_returns_is_ended_by_the_watchdog_and_nothing_is_lost(world: Any) -> None:
    world.publish(100)
    process = world.start(env={"HANDRAIL_PHASE_LIMIT_S": "8", "CRASH_HANDLER": f"hang:60:{world.flag}"})
    assert ends(process) == 70
    (hung,) = said(process, "hung")
    assert (hung["stage"], hung["phase"]) == (world.stage, "handle")
    assert 'crash_runner.py", line' in process.log.read_text(), "the stack says where"
    assert not world.caught_up()
    again = world.start()
    wait("all input handled", world.caught_up)
    stop(again)
    world.check()


@story(partitions=2)
def test_a_handler_that_takes_longer_than_the_session_but_lives_is_no_failure(world: Any) -> None:
    process = world.start(env={"CRASH_HANDLER": f"17:40:{world.flag}"})
    other = world.start(env=ordinal(1))
    wait("the partitions are shared out", lambda: len(owns(process) or []) == len(owns(other) or []) == 1)
    world.publish(160)
    rebalances = len(said(process, "restored")), len(said(other, "restored"))
    wait("it is in its long handler", world.flag.exists)
    wait("all input handled", world.caught_up)
    assert (len(said(process, "restored")), len(said(other, "restored"))) == rebalances, "it kept its place"
    assert said(process, "aborted") == said(other, "aborted") == []
    stop(process)
    stop(other)
    world.reckon()


@story(partitions=2)
def test_a_process_that_sleeps_past_its_session_wakes_up_as_a_zombie_and_does_nothing_twice(world: Any) -> None:
    world.publish(100)
    zombie = world.start(env={"CRASH_HANDLER": f"stop:30:{world.flag}"})
    wait("it sleeps in the middle of a batch", lambda: world.flag.exists() and is_stopped(zombie))
    other = world.start(env=ordinal(1))
    world.publish(50)
    wait("the other has done everything", world.caught_up, within_s=90)
    os.kill(zombie.pid, signal.SIGCONT)
    world.publish(50)

    def goes_on() -> bool:
        nonlocal zombie
        if zombie.poll() in (3, 70):  # fenced, or hung by its own clock: as the supervisor does
            zombie = world.start()
        return len(owns(other) or []) == 1 and bool(world.caught_up())

    wait("it has its share again, and all is handled", goes_on)
    stop(zombie)
    stop(other)
    world.reckon()


# --- members


@story(partitions=2)
def test_a_restart_of_the_same_ordinal_within_its_session_moves_nothing_at_the_others(world: Any) -> None:
    members = [world.start(env=ordinal(n)) for n in range(2)]
    wait("the partitions are shared out", lambda: all(len(owns(each) or []) == 1 for each in members))
    shares, rebalances = [owns(each) for each in members], len(said(members[0], "restored"))
    for end in (signal.SIGTERM, signal.SIGKILL):
        members[1].send_signal(end)
        ends(members[1])
        members[1] = world.start(env=ordinal(1))
        world.publish(40)
        wait("all input handled", world.caught_up)
        assert [owns(each) for each in members] == shares
        assert len(said(members[1], "restored")) == 1
        assert len(said(members[0], "restored")) == rebalances, "no rebalance"
    for member in members:
        stop(member)
    world.reckon()


@story(partitions=2)
def test_an_idle_member_takes_over_from_one_that_died_for_good_with_an_open_transaction(world: Any) -> None:
    """One more member than partitions; copies come while the dead one's transaction is open."""
    dying = world.start(fault="before-commit:2")
    members = [world.start(env=ordinal(n)) for n in (1, 2)]
    wait("all are there", lambda: sorted(shares(world)) == [0, 1, 1])
    world.publish(160)
    assert ends(dying) == KILLED
    world.publish_again()
    wait("all input handled", world.caught_up, within_s=90)
    assert shares(world) == [1, 1], "the idle one has its partition"
    for member in members:
        stop(member)
    world.reckon()


# --- what it finds at the start


@story(partitions=4)
def test_tables_that_can_not_be_trusted_are_restored_from_kafka_and_no_copy_passes(world: Any) -> None:
    """Of another version, of another cluster's topics, overwritten, cut off: one of each."""
    world.publish(200)
    first = world.start()
    wait("all input handled", world.caught_up)
    stop(first)
    version, cluster, garbage, cut = (
        world.folder / "home" / "state" / world.stage / "0" / f"{n:05d}" for n in range(4)
    )
    forget_marks(version, b'"format": 1', b'"format": 0')
    forget_marks(cluster, b'"topics": {"', b'"topics": {"x')
    file = garbage / "data.mdb"
    file.write_bytes(b"\xff" * file.stat().st_size)
    file = cut / "data.mdb"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    world.publish_again()
    world.publish(40)
    again = world.start()
    wait("all input handled", world.caught_up)
    stop(again)
    world.check()


def forget_marks(folder: Path, ours: bytes, theirs: bytes) -> None:
    """Tables with another identity, and without what would stop copies: who trusts them does things twice."""
    with lmdb.open(str(folder), max_dbs=64, map_size=1 << 28) as env:
        meta = env.open_db(b"meta")
        with env.begin(write=True) as transaction:
            names = [bytes(name) for name, _ in transaction.cursor() if bytes(name).startswith(b"marks-")]
            identity = bytes(transaction.get(b"identity", db=meta))
            assert ours in identity
            transaction.put(b"identity", identity.replace(ours, theirs), db=meta)
        assert names
        for name in names:
            marks = env.open_db(name)
            with env.begin(write=True) as transaction:
                transaction.drop(marks, delete=True)


@story(partitions=2)
def test_after_kafka_has_compacted_its_state_a_lost_disk_is_restored_to_what_was_there(world: Any) -> None:
    compacted = {
        "cleanup.policy": "compact", "segment.ms": "200", "min.cleanable.dirty.ratio": "0.001", "delete.retention.ms": "0",
        "min.compaction.lag.ms": "0",
    }  # fmt: skip
    changes = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in compacted.items()
    ]
    wanted = [
        ConfigResource(ResourceType.TOPIC, f"{world.stage}.{kind}", incremental_configs=changes)
        for kind in ("state", "delayed")
    ]
    for future in world.admin.incremental_alter_configs(wanted).values():
        future.result(30)
    process = world.start(env={"CRASH_HANDLER": f"fail:30:{world.flag}"})
    for _ in range(3):
        world.publish(60)
        wait("all input handled", world.caught_up)
    wait("nothing waits any more", lambda: sum(map(len, world.produced().values())) == 180)
    assert world.flag.exists(), "one has waited: rows were deleted, too"
    written = world.places(f"{world.stage}.state")
    world.publish(20)  # what is written last stays in the newest segment, which is never compacted
    wait("all input handled", world.caught_up)
    wait("Kafka has compacted", lambda: not written <= world.places(f"{world.stage}.state"))
    stop(process)
    left = sum(len(world.places(topic)) for topic in crash_world.changelog.topics(world.stage))
    before = world.tables()
    world.forget_local_state()
    world.publish_again()
    again = world.start()
    wait("all input handled", world.caught_up)
    stop(again)
    assert 0 < said(again, "restored")[0]["records"] <= left, "it read what compaction had left"
    assert world.tables() == before
    world.check()


@story(partitions=2)
def test_without_a_starting_position_it_says_so_and_commits_nothing(world: Any) -> None:
    """A position in one partition and none in the other: an offset of -1001 would fence nobody."""
    (future,) = world.admin.delete_consumer_groups([world.stage]).values()
    future.result(30)
    crash_world.provision(world.bootstrap, world.stage, f"{world.stage}.in", 1)
    world.publish(40)
    process = world.start()
    assert ends(process) == 2
    assert f"no position in {world.stage}.in[1]" in says(process, "misconfigured")
    assert "handrail topics provision" in says(process, "misconfigured")
    assert world.committed() == [0, -1001]
    assert world.read(f"{world.stage}.out") == world.read(f"{world.stage}.state") == []


@story(partitions=2)
def test_partitions_that_are_added_to_an_inbox_under_a_running_process_end_it_and_nothing_is_skipped(
    world: Any,
) -> None:
    """Keys would go to other partitions, away from their state: it does not go on as if nothing had happened."""
    world.publish(40)
    process = world.start()
    wait("all input handled", world.caught_up)
    (future,) = world.admin.create_partitions([NewPartitions(f"{world.stage}.in", 3)]).values()
    future.result(30)
    visitor = Consumer({"bootstrap.servers": world.bootstrap, "group.id": world.stage, "log_level": 0,
                        "partition.assignment.strategy": "range", "session.timeout.ms": 15_000})  # fmt: skip
    visitor.subscribe([f"{world.stage}.in"])  # a rebalance, at which the process sees the new count
    try:
        wait("the visitor has its share", lambda: visitor.poll(0.1) is not None or bool(visitor.assignment()))
    finally:
        visitor.close()
    assert ends(process) == 2
    why = says(process, "misconfigured")
    assert f"{world.stage}.in[2]" in why
    again = world.start()
    assert ends(again) == 2
    assert "the partition count was changed" in says(again, "misconfigured")
    world.reckon()
