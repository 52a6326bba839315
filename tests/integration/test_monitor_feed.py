"""Monitor's feed on a real Kafka: what was said before it is restored, what is said after it is heard, once or more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from handrail.errors import ConfigError, Unreachable
from handrail.kafka.provision import provision
from handrail.kafka.publishing import publish_records, publisher
from handrail.kafka.topics import topology
from handrail.kafka.topics_file import TopicsFile
from handrail.testing.broker import Broker
from handrail_monitor.feed import Feed
from handrail_monitor.restore import Raw, read_states, set_positions

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]
WITHIN_S = 60.0


@dataclass
class Ear:
    """What a feed has told, and a way to wait for it."""

    restored: list[list[Raw]] = field(default_factory=list)
    heard: list[Raw] = field(default_factory=list)
    failed: list[ConfigError] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def put(self, where: list[object], what: object) -> None:
        with self.changed:
            where.append(what)
            self.changed.notify_all()

    def until(self, holds: Callable[[], bool], what: str) -> None:
        with self.changed:
            assert self.changed.wait_for(holds, WITHIN_S), f"not within {WITHIN_S:g} s: {what}; heard {self.heard}"


@contextmanager
def listening(bootstrap: str, home: Path, since: int) -> Iterator[tuple[Feed, Ear]]:
    ear = Ear()
    feed = Feed(
        bootstrap,
        home,
        stats_from=lambda: since,
        restored=lambda records: ear.put(ear.restored, records),  # type: ignore[arg-type]
        heard=lambda raw: ear.put(ear.heard, raw),  # type: ignore[arg-type]
        failed=lambda error: ear.put(ear.failed, error),  # type: ignore[arg-type]
    )
    feed.start()
    try:
        yield feed, ear
    finally:
        feed.close()


def say(bootstrap: str, topic: str, *values: bytes) -> None:
    publish_records(publisher(bootstrap), topic, [(b"k", value, ()) for value in values], lambda _: None)


def test_what_was_said_is_restored_and_what_is_said_is_heard(kafka: Broker, tmp_path: Path) -> None:
    at = kafka.bootstrap
    provision(at, topology(TopicsFile.load(ROOT / "deploy" / "kafka" / "topics.yaml"), [], []))
    tag = str(time.time_ns()).encode()
    say(at, "recovery.states", b"state " + tag)
    say(at, "alerts", b"alert " + tag)
    say(at, "stats", b"long ago " + tag)
    time.sleep(0.05)  # so that the next one has another time in Kafka
    since = time.time_ns() // 1_000_000
    say(at, "stats", b"just now " + tag)
    with listening(at, tmp_path, since) as (feed, ear):
        ear.until(lambda: ("stats", b"k", b"just now " + tag) in ear.heard, "what was said since")
        [records] = ear.restored
        assert ("recovery.states", b"k", b"state " + tag) in records
        assert ("alerts", b"k", b"alert " + tag) in records
        assert ("stats", b"k", b"long ago " + tag) not in ear.heard
        for topic in ("dead-letters", "systems", "recovery.states"):
            say(at, topic, b"new " + tag)
            ear.until(lambda topic=topic: (topic, b"k", b"new " + tag) in ear.heard, topic)  # type: ignore[misc]

        _, ends = read_states(at)
        with pytest.raises(Unreachable, match="another monitor is in the group"):
            set_positions(at, ends, since)

        feed.again()
        ear.until(lambda: len(ear.restored) == 2, "it begins anew")
        say(at, "stats", b"after " + tag)
        ear.until(lambda: ("stats", b"k", b"after " + tag) in ear.heard, "it hears again")
    assert not feed.is_alive()
    assert ear.failed == []
