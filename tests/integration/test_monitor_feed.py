"""Monitor's feed on a real Kafka: what was said before it is restored, what is said after it is heard, once or more."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from handrail.kafka.admin import connect
from handrail.kafka.provision import partition_counts, provision
from handrail.kafka.publishing import publish_records, publisher
from handrail.kafka.topics import topology
from handrail.kafka.topics_file import TopicsFile
from handrail.testing.broker import Broker
from handrail_monitor.restore import ALERTS, STATES, STATS, AnotherMember, read_states, set_positions
from handrail_monitor.watch import BLIND_MS

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
HEARD = {*STATES, STATS, ALERTS}
RUNNER = Path(__file__).with_name("feed_runner.py")
WITHIN_S = 90.0


class Ear:
    """A feed in a process of its own, what it has told by kind, and a way to wait for it."""

    def __init__(self, bootstrap: str, home: Path, since: int) -> None:
        self.told: dict[str, list[Any]] = defaultdict(list)
        self._changed = threading.Condition()
        self._errors = home / "feed.err"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, RUNNER, bootstrap, home, str(since)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def again(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("again\n")
        self._process.stdin.flush()

    def until(self, holds: Callable[[], bool], what: str) -> None:
        with self._changed:
            found = self._changed.wait_for(holds, WITHIN_S)
        assert found, f"not within {WITHIN_S:g} s: {what}; told {dict(self.told)}; {self._errors.read_text()}"

    def end(self) -> int:
        """Close it; its exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join(10)
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            kind, what = json.loads(line)
            with self._changed:
                self.told[kind].append(what)
                self._changed.notify_all()


def say(bootstrap: str, topic: str, *values: str) -> None:
    publish_records(publisher(bootstrap), topic, [(b"k", value.encode(), ()) for value in values], lambda _: None)


def test_what_was_said_is_restored_and_what_is_said_is_heard(kafka: Broker, tmp_path: Path) -> None:
    at = kafka.bootstrap
    wanted = topology(TopicsFile.load(ROOT / "deploy" / "kafka" / "topics.yaml"), [], [])
    there = partition_counts(connect(at))  # other tests share this broker, and make topics with counts of their own
    missing = tuple(one for one in wanted.topics if one.name in HEARD and one.name not in there)
    provision(at, replace(wanted, topics=missing, groups=()))
    tag = str(time.time_ns())
    say(at, "recovery.states", f"state {tag}")
    say(at, "alerts", f"alert {tag}")
    say(at, "stats", f"long ago {tag}")
    time.sleep(0.05)  # so that the next one has another time in Kafka
    since = time.time_ns() // 1_000_000
    say(at, "stats", f"just now {tag}")
    ear = Ear(at, tmp_path, since)
    heard, restored = ear.told["heard"], ear.told["restored"]
    try:
        ear.until(lambda: ["stats", f"just now {tag}"] in heard, "what was said since")
        assert ["recovery.states", f"state {tag}"] in restored[0]
        assert ["alerts", f"alert {tag}"] in restored[0]
        assert ["stats", f"long ago {tag}"] not in heard
        for topic in ("dead-letters", "systems", "recovery.states"):
            say(at, topic, f"new {tag}")
            ear.until(lambda topic=topic: [topic, f"new {tag}"] in heard, topic)  # type: ignore[misc]

        _, ends = read_states(at, lambda raw: raw, lambda: None)
        began, waited = time.monotonic(), list[float]()
        with pytest.raises(AnotherMember, match="another monitor is in the group"):
            set_positions(at, ends, since, lambda: waited.append(time.monotonic()))
        pauses = [later - earlier for earlier, later in pairwise([began, *waited, time.monotonic()])]
        assert max(pauses) * 1_000 < BLIND_MS / 2, "a monitor that stands back would take it for silence of Kafka"

        before = len(restored)
        ear.again()
        ear.until(lambda: len(restored) > before, "it begins anew")
        say(at, "stats", f"after {tag}")
        ear.until(lambda: ["stats", f"after {tag}"] in heard, "it hears again")
    finally:
        code = ear.end()
    assert code == 0
    assert ear.told["failed"] == []
