"""What test_crashes.py needs: topics, input, a process that can be killed, and the reckoning afterwards."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from handrail.contracts import Contracts
from handrail.identity import partition_for
from handrail.kafka import settings
from handrail.log import Record

from handrail import changelog, envelope

ROOT = Path(__file__).parents[2]
RUNNER = Path(__file__).with_name("crash_runner.py")
CONTRACTS = Contracts.load(ROOT / "contracts")
ORDER = "orders/order-accepted.v1"
PARTITIONS = 4
KEYS = 24
WITHIN_S = 90.0
FIELDS = {
    "order_id": "7", "revision": 1, "customer_id": "c1", "customer_name": None, "segment": "unknown",
    "account_balance_minor": 0, "total_minor": 500, "currency": "EUR", "ordered_on": "2026-11-21",
}  # fmt: skip


def wait(what: str, condition: Callable[[], bool], within_s: float = WITHIN_S, every_s: float = 0.05) -> None:
    """Until it holds; else the test fails with `what`."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        time.sleep(every_s)


def provision(bootstrap: str, group: str, topic: str, partitions: int) -> None:
    """Starting positions, by a consumer that joins no group.

    librdkafka's admin client aborts the whole process when a question to a coordinator fails (librdkafka#4605).
    """
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
    starts = [TopicPartition(topic, partition, 0) for partition in range(partitions)]

    def done() -> bool:
        try:
            committed = consumer.commit(offsets=starts, asynchronous=False)
        except KafkaException:
            return False  # the coordinator needs a moment
        return all(each.error is None for each in committed or [])

    try:
        wait(f"starting positions of {group}", done)
    finally:
        consumer.close()


class CrashWorld:
    """One stage of its own: its topics, what was published, and its processes."""

    def __init__(self, bootstrap: str, stage: str, folder: Path, partitions: int = PARTITIONS) -> None:
        self.bootstrap, self.stage, self.folder, self.partitions = bootstrap, stage, folder, partitions
        self.published: dict[str, list[str]] = defaultdict(list)
        self.count = [0] * partitions
        self._sent: list[tuple[str, str, bytes]] = []
        self.running: list[subprocess.Popen[bytes]] = []
        self._logs = 0
        self._asker: Consumer | None = None
        self._random = random.Random(stage.partition("-")[0])
        self.admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        names = [f"{stage}.in", f"{stage}.out", f"{stage}.letters", f"{stage}.replay", *changelog.topics(stage)]
        for future in self.admin.create_topics([NewTopic(name, partitions, 1) for name in names]).values():
            future.result(WITHIN_S)
        provision(bootstrap, stage, f"{stage}.in", partitions)

    # --- input

    def publish(self, distinct: int) -> None:
        """So many orders, each key's in its order, and a quarter as many again that repeat an earlier one (20 %)."""
        fresh: list[tuple[str, str, bytes]] = []
        for _ in range(distinct):
            key = f"order-{self._random.randrange(KEYS)}"
            number = len(self.published[key]) + 1
            id_ = f"{key}/{number}"
            self.published[key].append(id_)
            fresh.append((key, id_, CONTRACTS.encode(ORDER, FIELDS | {"order_id": key, "revision": number})))
        stream = list(fresh)
        for again in self._random.sample(range(distinct), distinct // 4):
            where = stream.index(fresh[again])
            stream.insert(self._random.randint(where + 1, len(stream)), fresh[again])
        self._send(stream)
        self._sent += fresh

    def publish_again(self) -> None:
        """A copy of everything published so far."""
        self._send(self._sent)

    def _send(self, stream: list[tuple[str, str, bytes]]) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5, "enable.idempotence": True})
        for key, id_, value in stream:
            partition = partition_for(key, self.partitions)
            headers = envelope.write_internal(id_, ORDER, None, None, "test", key)
            producer.produce(f"{self.stage}.in", value, key.encode(), partition, headers=list(headers))
            self.count[partition] += 1
        assert producer.flush(WITHIN_S) == 0

    # --- processes

    def start(self, *, fault: str = "", home: str = "home", env: dict[str, str] | None = None, **given: Any) -> Any:
        """A process of the stage. `fault` is `<point>:<n>`: it kills itself at the n-th hit."""
        self._logs += 1
        own = {
            "CRASH_STAGE": self.stage,
            "HANDRAIL_BOOTSTRAP": self.bootstrap,
            "HANDRAIL_HOME": str(self.folder / home),
            "HANDRAIL_CONTRACTS": str(ROOT / "contracts"),
            "HANDRAIL_FAULT": f"{self.stage}:{fault}:{self.flag}" if fault else "",
        }
        with (self.folder / f"log-{self._logs}").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, str(RUNNER)], stdout=log, stderr=subprocess.STDOUT, env=os.environ | own | (env or {}),
                **given,
            )  # fmt: skip
        process.log = Path(log.name)  # type: ignore[attr-defined]
        self.running.append(process)
        return process

    @property
    def flag(self) -> Path:
        return self.folder / "flag"

    def kill_all(self) -> None:
        """Leave nothing behind."""
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()
        if self._asker is not None:
            self._asker.close()

    def forget_local_state(self) -> None:
        shutil.rmtree(self.folder / "home" / "state")

    # --- looking

    def committed(self) -> list[int]:
        """The group's positions."""
        if self._asker is None:
            self._asker = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.stage, "log_level": 0})
        asked = [TopicPartition(f"{self.stage}.in", partition) for partition in range(self.partitions)]
        found = self._asker.committed(asked, timeout=5.0)
        for each in found:
            if each.error is not None:
                raise KafkaException(each.error)
        return [each.offset for each in found]

    def handled(self) -> int:
        """How many inputs are behind the committed positions; 0 while the broker can't say."""
        try:
            return sum(self.committed())
        except KafkaException:
            return 0

    def caught_up(self) -> bool:
        return self.handled() == sum(self.count)

    def read(self, topic: str) -> list[Record]:
        """Everything committed in a topic, partition by partition."""
        consumer = Consumer(settings.reader(self.bootstrap, f"{self.stage}-check"))
        records: list[Record] = []
        left = set(range(self.partitions))
        deadline = time.monotonic() + WITHIN_S
        try:
            consumer.assign([TopicPartition(topic, partition, 0) for partition in left])
            while left:
                assert time.monotonic() < deadline, f"{topic} can't be read to its end"
                for message in consumer.consume(1_000, 0.2):
                    if message.error() is not None:
                        left.discard(message.partition())
                    else:
                        records.append(
                            Record(topic, message.partition(), message.offset(), 0, message.key(), message.value())
                        )
        finally:
            consumer.close()
        return sorted(records, key=lambda record: (record.partition, record.offset))

    def places(self, topic: str) -> set[tuple[int, int]]:
        """Where its committed records stand. Once seen, only compaction takes one away; how many there are may grow."""
        return {(record.partition, record.offset) for record in self.read(topic)}

    def produced(self) -> dict[str, list[int]]:
        """The revisions in the output, by key, in their order."""
        sent: dict[str, list[int]] = defaultdict(list)
        for record in self.read(f"{self.stage}.out"):
            sent[(record.key or b"").decode()].append(CONTRACTS.decode(record.value or b"")[1]["revision"])
        return dict(sent)

    # --- the reckoning

    def check(self) -> None:
        """As `reckon`, and the local tables of ordinal 0, which alone has run, are right, too."""
        rows = self.reckon()
        assert self.tables() == {key: value for key, value in rows.items() if value is not None}

    def reckon(self) -> dict[bytes, bytes | None]:
        """Each input once in the output, in the order of its key; counts right; the position at the end. The state rows."""
        assert self.committed() == self.count
        sent = self.produced()
        wanted = {key: list(range(1, len(ids) + 1)) for key, ids in self.published.items()}
        assert sent == wanted
        rows: dict[bytes, bytes | None] = {}
        for record in self.read(f"{self.stage}.state"):
            rows[record.key or b""] = record.value
        counts = {key: CONTRACTS.decode(value)[1]["sequence"] for key, value in rows.items() if value}
        assert counts == {f"t/counts/{key}".encode(): len(numbers) for key, numbers in wanted.items()}
        assert self.read(f"{self.stage}.letters") == []
        return rows

    def tables(self, home: str = "home") -> dict[bytes, bytes]:
        """All state rows of the local tables; the process must have ended."""
        rows: dict[bytes, bytes] = {}
        for folder in sorted((self.folder / home / "state" / self.stage / "0").glob("0*")):
            with lmdb.open(str(folder), max_dbs=64, readonly=True, lock=False) as env:
                state = env.open_db(b"state", create=False)
                with env.begin() as transaction:
                    rows |= {bytes(key): bytes(value) for key, value in transaction.cursor(db=state)}
        return rows


def stop(process: Any) -> None:
    """SIGTERM, and a clean end."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(WITHIN_S) == 0, process.log.read_text()


def ends(process: Any, within_s: float = WITHIN_S) -> int:
    """Its exit code."""
    return int(process.wait(within_s))


def said(process: Any, event: str) -> list[dict[str, Any]]:
    """Its JSON log lines of one kind, so far."""
    lines = process.log.read_text().splitlines()
    whole = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return [entry for entry in whole if entry.get("event") == event]


def says(process: Any, event: str) -> str:
    """The `why` of a JSON log line."""
    for entry in said(process, event):
        return str(entry["why"])
    raise AssertionError(f"no {event!r} in: {process.log.read_text()}")
