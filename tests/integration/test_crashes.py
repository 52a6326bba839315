"""A stage on real Kafka, in a process of its own, killed at each point of its loop: nothing lost, nothing twice."""

from __future__ import annotations

import importlib.util
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
)
from handrail.clock import SystemClock
from handrail.crashes import LIMIT
from handrail.errors import Fenced
from handrail.kafka import settings
from handrail.kafka.log import KafkaLog
from handrail.local.ports import free_port
from handrail.stage import Stage
from handrail.tables import Identity
from handrail.telemetry import Telemetry
from handrail.testing.broker import Broker, EmbeddedBroker

from handrail import envelope


def sibling(name: str) -> Any:
    """Another file of this folder: test folders are no packages."""
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert found is not None
        assert found.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[name])
    return sys.modules[name]


crash_world, crash_runner = sibling("crash_world"), sibling("crash_runner")
CrashWorld, stop, ends, says, wait = (
    crash_world.CrashWorld,
    crash_world.stop,
    crash_world.ends,
    crash_world.says,
    crash_world.wait,
)

pytestmark = pytest.mark.kafka
KILLED = -signal.SIGKILL


@pytest.fixture
def world(kafka: Broker, tmp_path: Path) -> Iterator[Any]:
    made = CrashWorld(kafka.bootstrap, f"crash-{time.time_ns()}", tmp_path)
    yield made
    made.kill_all()


# --- kill -9


@pytest.mark.parametrize(
    "point",
    ["after-consume:3", "before-produce:3", "after-produce:3", "before-commit:3", "after-commit:3", "after-apply:3"],
)
def test_killed_in_the_loop_nothing_is_lost_and_nothing_happens_twice(world: Any, point: str) -> None:
    world.publish(300)
    assert ends(world.start(fault=point)) == KILLED
    assert world.flag.exists()
    assert not world.caught_up(), "it was in the middle"
    again = world.start()
    wait("all input handled", world.caught_up)
    stop(again)
    world.check()


def test_killed_in_the_loop_and_its_disk_lost_everything_is_restored_from_kafka(world: Any) -> None:
    world.publish(300)
    assert ends(world.start(fault="after-commit:4")) == KILLED
    world.forget_local_state()
    again = world.start()
    wait("all input handled", world.caught_up)
    stop(again)
    world.check()


def test_killed_while_it_restores_it_restores_again(world: Any) -> None:
    world.publish(200)
    first = world.start()
    wait("the first half handled", world.caught_up)
    stop(first)
    world.forget_local_state()
    world.publish(100)
    assert ends(world.start(fault="during-restore:1")) == KILLED
    again = world.start()
    wait("all input handled", world.caught_up)
    stop(again)
    world.check()


# --- other ends


def test_told_to_stop_it_ends_cleanly_and_a_restart_goes_on_from_there(world: Any) -> None:
    world.publish(300)
    first = world.start()
    wait("some input handled", lambda: world.handled() > 0)
    stop(first)
    between = world.committed()
    assert all(one <= end for one, end in zip(between, world.count, strict=True))
    world.publish(40)
    again = world.start()
    wait("all input handled", world.caught_up)
    stop(again)
    world.check()


def test_two_processes_on_one_folder_the_second_says_so_and_ends(world: Any) -> None:
    world.publish(100)
    first = world.start()
    wait("all input handled", world.caught_up)
    second = world.start()
    assert ends(second) == 2
    assert "held by another process" in says(second, "misconfigured")
    world.publish(100)
    wait("the first goes on", world.caught_up)
    stop(first)
    world.check()


def test_two_processes_with_one_name_on_two_machines_the_older_is_fenced_and_ends(world: Any) -> None:
    world.publish(200)
    old = world.start(home="elsewhere")
    wait("some input handled", lambda: world.handled() > 0)
    new = world.start()
    assert ends(old) == 3
    assert says(old, "fenced")
    world.publish(100)
    wait("all input handled", world.caught_up)
    assert new.poll() is None, "never both end, never both go on"
    stop(new)
    world.check()


def test_a_commit_is_refused_when_the_place_in_the_group_was_taken(world: Any, tmp_path: Path) -> None:
    """The producer is not fenced here: it is the group that refuses."""
    world.publish(20)
    intruder: list[Consumer] = []
    joined = threading.Event()

    def take_its_place(point: str) -> None:
        if point == "before-produce" and not intruder:
            intruder.append(Consumer(settings.stage_consumer(world.bootstrap, world.stage, 0)))
            intruder[0].subscribe([f"{world.stage}.in"], on_assign=lambda *_: joined.set())
            wait("the intruder has its place", lambda: intruder[0].poll(0.1) is not None or joined.is_set())

    stage = Stage(
        crash_runner.spec(world.stage, lambda _topic: crash_world.PARTITIONS),
        KafkaLog(world.bootstrap, world.stage, 0, f"{world.stage}.in", take_its_place),
        crash_world.CONTRACTS,
        folder=lambda partition: tmp_path / str(partition),
        identity=lambda partition: Identity(world.stage, partition, crash_world.PARTITIONS, {}),
        clock=SystemClock(),
        telemetry=Telemetry.from_env("test", {}),
        jitter=lambda: 0.0,
    )
    try:
        with pytest.raises(Fenced):
            wait("it is refused", stage.step, within_s=30)
    finally:
        stage.close()
        for each in intruder:
            each.close()
    assert joined.is_set()
    assert world.read(f"{world.stage}.out") == []
    assert sum(world.committed()) == 0


def test_the_broker_is_killed_and_comes_back_and_all_goes_on(tmp_path: Path) -> None:
    """It may end a process (one in a hundred by an assertion in librdkafka's admin client); then it is started again."""
    folder = Path(tempfile.mkdtemp(prefix="handrail-kafka-"))
    broker = EmbeddedBroker(folder)
    broker.start()
    try:
        world = CrashWorld(broker.bootstrap, f"crash-{time.time_ns()}", tmp_path)
        try:
            world.publish(300)
            process = world.start(fault="before-commit:4")  # so that a transaction is open when the broker dies
            assert ends(process) == KILLED
            broker.kill()
            process = world.start()
            broker.start()
            world.publish(100)
            wait("some more handled", lambda: world.handled() >= 100)
            broker.kill()
            broker.start()
            world.publish(100)

            def goes_on() -> bool:
                nonlocal process
                if process.poll() is not None:  # as the supervisor does
                    assert process.returncode in (1, 70, -signal.SIGABRT), process.log.read_text()
                    process = world.start()
                return bool(world.caught_up())

            wait("all input handled", goes_on, within_s=90)
            stop(process)
            world.check()
        finally:
            world.kill_all()
    finally:
        broker.stop()
        shutil.rmtree(folder, ignore_errors=True)


# --- records that can't be handled, whatever is done


def one_order(world: Any, key: str, **fields: Any) -> None:
    """One more order into partition 0."""
    value = crash_world.CONTRACTS.encode(crash_world.ORDER, crash_world.FIELDS | {"order_id": key} | fields)
    producer = Producer({"bootstrap.servers": world.bootstrap})
    headers = envelope.write_internal(key, crash_world.ORDER, None, None, "test", key)
    producer.produce(f"{world.stage}.in", value, key.encode(), 0, headers=list(headers))
    assert producer.flush(30) == 0
    world.count[0] += 1


def test_a_record_that_kills_the_process_is_a_dead_letter_after_three_times_and_its_neighbours_go_through(
    world: Any,
) -> None:
    world.publish(60)
    one_order(world, "deadly")
    world.publish(60)
    for _ in range(LIMIT):
        assert ends(world.start()) == KILLED
    process = world.start()
    wait("all input handled", world.caught_up)
    stop(process)
    (letter,) = (crash_world.CONTRACTS.decode(record.value)[1] for record in world.read(f"{world.stage}.letters"))
    assert (letter["key"], letter["failure_class"]) == (b"deadly", "poison")
    sent = [record.key for record in world.read(f"{world.stage}.out")]
    assert len(sent) == 120
    assert b"deadly" not in sent


def test_an_output_that_kafka_will_never_take_makes_its_input_a_dead_letter_and_does_not_stop_the_others(
    world: Any,
) -> None:
    """Its topic is narrower than we were told: without being put aside it would abort its batch for ever."""
    out = ConfigResource("topic", f"{world.stage}.out", incremental_configs=[
        ConfigEntry("max.message.bytes", "5000", incremental_operation=AlterConfigOpType.SET)
    ])  # fmt: skip
    for future in world.admin.incremental_alter_configs([out]).values():
        future.result(30)
    world.publish(60)
    one_order(world, "wide", customer_name=random.Random(1).randbytes(6_000).hex())
    world.publish(60)
    process = world.start()
    wait("all input handled", world.caught_up)
    stop(process)
    (letter,) = (crash_world.CONTRACTS.decode(record.value)[1] for record in world.read(f"{world.stage}.letters"))
    assert (letter["key"], letter["failure_class"]) == (b"wide", "contract")
    assert "Kafka refuses" in letter["message"]
    assert len(world.read(f"{world.stage}.out")) == 120


# --- bad surroundings


def test_a_record_that_is_small_on_the_wire_only_does_not_stall_its_partition(world: Any) -> None:
    """The broker measures compressed batches: what comes out may be too large to be produced again, even as a letter."""
    bomb = Producer({"bootstrap.servers": world.bootstrap, "compression.type": "gzip", "message.max.bytes": 9_000_000})
    bomb.produce(f"{world.stage}.in", bytes(5_000_000), b"order-1", 0)
    assert bomb.flush(30) == 0
    world.count[0] += 1
    world.publish(40)
    process = world.start()
    wait("all input handled", world.caught_up)
    stop(process)
    (letter,) = (crash_world.CONTRACTS.decode(record.value)[1] for record in world.read(f"{world.stage}.letters"))
    assert (letter["offset"], letter["value"]) == (0, None)
    assert "5000007 bytes" in letter["message"]


def test_a_changed_partition_count_is_refused_before_anything_is_read(world: Any) -> None:
    world.publish(20)
    for future in world.admin.create_partitions([NewPartitions(f"{world.stage}.in", 6)]).values():
        future.result(30)
    process = world.start()
    assert ends(process) == 2
    why = says(process, "misconfigured")
    assert f"{world.stage}.in has 6 partitions and {world.stage}.state has 4" in why
    assert "the partition count was changed" in why
    assert sum(world.committed()) == 0
    assert world.read(f"{world.stage}.out") == []


def test_a_missing_topic_is_named_with_what_to_do(world: Any) -> None:
    process = world.start(env={"CRASH_STAGE": "never-provisioned"})
    assert ends(process) == 2
    assert "there is no topic never-provisioned.in" in says(process, "misconfigured")
    assert "handrail topics provision" in says(process, "misconfigured")


def test_a_state_folder_that_can_not_be_made_is_named_and_nothing_is_lost(world: Any) -> None:
    world.publish(40)
    (world.folder / "file").write_text("")
    process = world.start(home="file/home")
    assert ends(process) == 2
    assert "state folder" in says(process, "misconfigured")
    assert sum(world.committed()) == 0
    mended = world.start()
    wait("all input handled", world.caught_up)
    stop(mended)
    world.check()


def small_files() -> None:
    """No file may grow beyond 48 KiB: a full disk, as LMDB sees it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (49_152, 49_152))


def test_a_disk_that_runs_full_stops_the_process_and_nothing_is_lost_after_mending(world: Any) -> None:
    world.publish(300)
    process = world.start(preexec_fn=small_files)
    assert ends(process) == 2
    assert 0 < sum(world.committed()) < sum(world.count), "in the middle: a commit that could not be written here"
    why = says(process, "misconfigured")
    assert "the disk is full" in why
    assert "nothing was lost" in why
    mended = world.start()
    wait("all input handled", world.caught_up)
    stop(mended)
    world.check()


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that can't be written: root may write whatever its mode says."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"can't mount here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_read_only_state_folder_is_named_with_what_to_do(world: Any, read_only: Path) -> None:
    process = world.start(home=str(read_only.relative_to(world.folder)))
    assert ends(process) == 2
    assert "mend its permissions" in says(process, "misconfigured")


def test_kafka_that_does_not_answer_is_said_and_ends_it(tmp_path: Path, world: Any) -> None:
    started = time.monotonic()
    nobody = f"127.0.0.1:{free_port()}"
    process = world.start(env={"HANDRAIL_BOOTSTRAP": nobody, "CRASH_CONNECT_S": "2"})
    assert ends(process) == 1
    assert time.monotonic() - started < 15
    why = says(process, "unreachable")
    assert f"Kafka does not answer at {nobody}" in why
    assert "handrail up" in why
