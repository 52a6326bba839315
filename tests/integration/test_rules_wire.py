"""Answers of the broker that are lost or late, on the wire: a commit that had committed is never done again."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
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


crash_world, stories, rules_wire = sibling("crash_world"), sibling("rules_stories"), sibling("rules_wire")
ends, said, stop, wait = crash_world.ends, crash_world.said, crash_world.stop, crash_world.wait
story, relay = stories.story, rules_wire.relay
FETCH, END_TXN, INIT_PRODUCER_ID, TXN_OFFSET_COMMIT = 1, rules_wire.END_TXN, 22, 28
KILLED = -signal.SIGKILL

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    def world(name: str, folder: Path, partitions: int) -> Any:
        return crash_world.CrashWorld(kafka.bootstrap, name, folder, partitions)

    with stories.started(request, tmp_path_factory, world) as bodies:
        yield bodies


def by(wire: Any, ordinal: int = 0) -> dict[str, str]:
    """The environment of a process that reaches Kafka by the wire only."""
    return {"HANDRAIL_BOOTSTRAP": wire.bootstrap, "HANDRAIL_ORDINAL": str(ordinal)}


@story(partitions=2)
def test_a_commit_that_timed_out_and_had_committed_is_followed_by_a_new_producer_and_nothing_happens_twice(
    world: Any,
) -> None:
    with relay(world.bootstrap) as wire:
        world.publish(200)
        answer = wire.hold("response", END_TXN)
        process = world.start(env=by(wire))
        answer.wait()
        wait("the broker has committed", lambda: world.handled() > 0)
        producers = wire.requests[INIT_PRODUCER_ID]
        with wire.without("response", END_TXN):
            answer.lose()
            wait("it gives up on the answer", lambda: said(process, "aborted"))
        wait("all input handled", world.caught_up)
        assert wire.requests[INIT_PRODUCER_ID] > producers, "a new producer"
        assert len(said(process, "restored")) == 2, "it learnt what it had committed"
        stop(process)
        world.check()


@story(partitions=2)
def test_a_commit_that_lost_its_coordinator_is_followed_by_a_new_producer_and_nothing_happens_twice(world: Any) -> None:
    """The next send_offsets_to_transaction of such a producer may block for ever (librdkafka#5456)."""
    with relay(world.bootstrap) as wire:
        world.publish(200)
        answer = wire.hold("response", END_TXN)
        process = world.start(env=by(wire))
        answer.wait()
        wait("the broker has committed", lambda: world.handled() > 0)
        asked, producers = wire.requests[END_TXN], wire.requests[INIT_PRODUCER_ID]
        answer.lose()
        wire.cut()
        wait("it asks again on a new connection", lambda: wire.requests[END_TXN] > asked)
        wait("all input handled", world.caught_up)
        assert wire.requests[INIT_PRODUCER_ID] > producers, "a new producer"
        stop(process)
        world.check()


@story(partitions=2)
def test_a_commit_that_took_longer_than_two_seconds_is_followed_by_a_new_producer(world: Any) -> None:
    with relay(world.bootstrap) as wire:
        world.publish(200)
        answer = wire.hold("response", END_TXN)
        process = world.start(env=by(wire))
        answer.wait()
        producers = wire.requests[INIT_PRODUCER_ID]
        threading.Timer(2.5, answer.release).start()
        wait("it was slow", lambda: said(process, "slow commit"))
        wait("all input handled", world.caught_up)
        assert wire.requests[INIT_PRODUCER_ID] > producers, "a new producer"
        assert said(process, "aborted") == [], "it had committed: nothing is done again"
        stop(process)
        world.check()


@story(partitions=2)
def test_a_frame_that_is_lost_is_sent_again_within_the_time_of_the_commit(world: Any) -> None:
    """By default librdkafka waits for a minute: then every loss would cost an abort, or the process its life."""
    with relay(world.bootstrap) as wire:
        world.publish(200)
        frame = wire.hold("request", TXN_OFFSET_COMMIT)
        process = world.start(env=by(wire))
        frame.wait()
        frame.lose()
        wait("all input handled", world.caught_up)
        assert said(process, "aborted") == []
        stop(process)
        world.check()


@story(partitions=2)
def test_positions_whose_answer_never_comes_are_given_up_and_the_batch_is_done_again(world: Any) -> None:
    """librdkafka#5456, #5511: send_offsets_to_transaction may block for ever. An error, or else the watchdog, ends it."""
    with relay(world.bootstrap) as wire:
        world.publish(200)
        answer = wire.hold("response", TXN_OFFSET_COMMIT)
        process = world.start(env=by(wire))
        answer.wait()
        producers = wire.requests[INIT_PRODUCER_ID]
        with wire.without("response", TXN_OFFSET_COMMIT):
            answer.lose()
            wait("it gives up", lambda: said(process, "aborted") or process.poll() == 70)
        if process.poll() == 70:
            process = world.start(env=by(wire))
        wait("all input handled", world.caught_up)
        assert wire.requests[INIT_PRODUCER_ID] > producers, "a new producer"
        stop(process)
        world.check()


@story(partitions=2)
def test_a_zombies_commit_that_arrives_late_is_refused_and_what_it_held_was_done_by_another(world: Any) -> None:
    """Stopped with a commit on its way, past the timeouts of session and transaction; the way ends when all is over."""
    with relay(world.bootstrap) as wire:
        world.publish(100)
        commit = wire.hold("request", END_TXN)
        zombie = world.start(env=by(wire))
        commit.wait()
        os.kill(zombie.pid, signal.SIGSTOP)
        other = world.start(env={"HANDRAIL_ORDINAL": "1"})
        world.publish_again()
        wait("the other has done everything", world.caught_up, within_s=90)
        world.reckon()
        commit.release()
        os.kill(zombie.pid, signal.SIGCONT)
        world.publish(100)

        def goes_on() -> bool:
            nonlocal zombie
            if zombie.poll() in (3, 70):  # fenced, or hung by its own clock: as the supervisor does
                zombie = world.start()
            return len(said(other, "restored")) >= 2 and bool(world.caught_up())

        wait("it is in the group again, and all is handled", goes_on)
        assert zombie.poll() is None
        stop(zombie)
        stop(other)
        world.reckon()


@story(partitions=2)
def test_a_restore_waits_behind_an_open_transaction_although_it_hides_what_was_committed(world: Any) -> None:
    world.publish(40)
    dying = world.start(fault="after-commit:5")
    wait("it has begun", world.caught_up)
    stranger = Producer(
        {
            "bootstrap.servers": world.bootstrap,
            "transactional.id": f"{world.stage}-9",
            "transaction.timeout.ms": 300_000,
        }
    )
    stranger.init_transactions(30)
    stranger.begin_transaction()
    for partition in range(2):
        stranger.produce(f"{world.stage}.marks", bytes(16), partition=partition)
        stranger.produce(f"{world.stage}.state", b"", b"nothing", partition)
    assert stranger.flush(30) == 0
    world.publish(200)
    assert ends(dying) == KILLED
    world.forget_local_state()
    world.publish_again()
    with relay(world.bootstrap) as wire:
        again = world.start(env=by(wire))
        reader = f"{world.stage}-0-restore"
        wait("it waits", lambda: wire.requests_of[reader, FETCH] >= 100 or said(again, "restored"))
        assert said(again, "restored") == [], "what it can't see yet are its marks"
        stranger.abort_transaction(30)
        wait("all input handled", world.caught_up)
        stop(again)
        world.check()
