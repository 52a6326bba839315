"""The world of one scenario: topics of its own on a shared broker, input, one real stage as a process, and the evidence."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from handrail.contracts import Contracts
from handrail.identity import output_id, partition_for, run_id
from handrail.kafka.provision import provision
from handrail.kafka.topics import GroupSpec, TopicSpec, Topology
from handrail.local import processes
from handrail.message import Run
from handrail_demo.plain import PlainContracts

from handrail import changelog, envelope
from handrail_chaos.errors import ChaosError
from handrail_chaos.evidence import Evidence, Published, Role, Stage
from handrail_chaos.gathering import gather
from handrail_chaos.scenario_stage import ORDER

PARTITIONS = 2
FLOW = "order-to-invoice"
COMMAND = "handrail/command.v1"
START_S, STILL_S, REST_S, END_S = 40.0, 8.0, 90.0, 20.0
"""Seconds: until a process must have done something, of no news that mean that none will come, in all, and to its end."""

Event = tuple[str, int]
"""Order and revision."""


@dataclass
class World:
    """One scenario's own stage. `path` comes before PYTHONPATH of its processes: a broken build."""

    bootstrap: str
    project: Path
    folder: Path
    stage: str
    kind: Role
    path: Sequence[Path] = ()
    sandbox: str = ""
    books: Path | None = None
    published: list[Published] = field(default_factory=list)
    children: list[processes.Child] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.contracts = Contracts.load(self.project / "contracts")
        self.inbox, self.out, self.letters = f"{self.stage}.in", f"{self.stage}.out", f"{self.stage}.letters"
        own = [self.inbox, self.out, self.letters, f"{self.stage}.replay", *changelog.topics(self.stage)]
        broker_time = {"message.timestamp.type": "LogAppendTime"}
        topics = [
            TopicSpec(name, "", PARTITIONS, broker_time if name.endswith(".marks") else {})
            for name in [*own, "recovery.letters.replay"]
        ]
        provision(self.bootstrap, Topology(tuple(topics), (GroupSpec(self.stage, self.inbox),), 1))
        quiet: dict[str, Any] = {"bootstrap.servers": self.bootstrap, "log_level": 0}
        self._asker = Consumer(quiet | {"group.id": self.stage, "enable.auto.commit": False})

    # --- input

    def publish(self, events: Iterable[Event], *, segment: str = "plain") -> None:
        """Orders to the copying stage, or commands to the action stage, one after the other; all are acknowledged."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "linger.ms": 5})
        for order, revision in events:
            body = self._order(order, revision, segment)
            make = self._command if self.kind is Role.ACTION else self._copyable
            id_, type_, value, run = make(order, revision, self.contracts.encode(ORDER, body))
            headers = envelope.write_internal(id_, type_, None, run, "the scenario", order)
            producer.produce(
                self.inbox,
                value,
                order.encode(),
                partition_for(order, PARTITIONS),
                headers=list(headers),
                on_delivery=self._noted(order, revision),
            )
        if producer.flush(30):
            raise ChaosError(f"Kafka at {self.bootstrap} did not take the scenario's input within 30 s")

    def publish_bytes(self, value: bytes, key: str) -> None:
        """A record that nobody can decode."""
        producer = Producer({"bootstrap.servers": self.bootstrap})
        where = partition_for(key, PARTITIONS)
        producer.produce(self.inbox, value, key.encode(), where, on_delivery=self._noted(key, None))
        producer.flush(30)

    def _noted(self, order: str, revision: int | None) -> Callable[..., None]:
        identity = None if revision is None else f"{order}/{revision}"

        def note(error: Any, message: Any) -> None:
            if error is not None:
                raise ChaosError(f"Kafka refused the scenario's input: {error}")
            self.published.append(
                Published(identity, order, "good", True, self.inbox, message.partition(), message.offset(), revision)
            )

        return note

    def _order(self, order: str, revision: int, segment: str) -> dict[str, Any]:
        return {
            "order_id": order,
            "revision": revision,
            "customer_id": "c1",
            "customer_name": None,
            "segment": segment,
            "account_balance_minor": 0,
            "total_minor": 100 * revision,
            "currency": "EUR",
            "ordered_on": "2026-11-21",
        }

    def _copyable(self, order: str, revision: int, value: bytes) -> tuple[str, str, bytes, Run | None]:
        return f"{order}/{revision}", ORDER, value, None

    def _command(self, order: str, revision: int, event: bytes) -> tuple[str, str, bytes, Run | None]:
        run = Run(run_id(FLOW, {"order_id": order, "revision": str(revision)}), FLOW, 1)
        request = {
            "reference": f"{order}/{revision}",
            "customer_id": "c1",
            "total_minor": 100 * revision,
            "currency": "EUR",
        }
        body = {
            "run": run.id,
            "flow": FLOW,
            "version": 1,
            "route": order,
            "step": "invoice",
            "revision": 1,
            "system": "billing",
            "operation": "create-invoice",
            "event": event,
            "request": self.contracts.encode("billing/invoice-request.v1", request),
            "issued_at": 0,
        }
        return output_id(run.id, "command/invoice", 1), COMMAND, self.contracts.encode(COMMAND, body), run

    # --- processes

    def start(self, fault: str = "", home: str = "home") -> processes.Child:
        """A process of the stage; see handrail_chaos.scenario_stage for `fault`. Another home is another machine."""
        (self.folder / "hit").unlink(missing_ok=True)
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*map(str, self.path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "SCENARIO_STAGE": self.stage,
            "SCENARIO_KIND": str(self.kind),
            "SCENARIO_FOLDER": str(self.folder),
            "SCENARIO_FAULT": fault,
            "HANDRAIL_BOOTSTRAP": self.bootstrap,
            "HANDRAIL_HOME": str(self.folder / home),
            "HANDRAIL_CONTRACTS": str(self.project / "contracts"),
            "HANDRAIL_FLOWS": str(self.project / "flows"),
            "HANDRAIL_SYSTEMS": str(self.project / "systems"),
            "HANDRAIL_SANDBOX_URL": self.sandbox,
        }
        with (self.folder / f"log-{len(self.children) + 1}").open("wb") as log:
            command = [sys.executable, "-m", "handrail_chaos.scenario_stage"]
            child = processes.spawn(command, env=env, output=log.fileno())
        self.children.append(child)
        return child

    def stop(self, child: processes.Child) -> None:
        """Told to end; it need not end well, as it may be a broken build."""
        processes.terminate([child], END_S)

    def until_hit(self, child: processes.Child) -> None:
        """Until the scripted fault has happened. Raises ChaosError when it does not."""
        hit = self.folder / "hit"
        self.until("the scripted fault", lambda: hit.exists() or child.poll() is not None)
        if not hit.exists():
            raise ChaosError(
                f"{self.stage}: ended with {child.returncode} before its fault; its log is in {self.folder}"
            )

    def killed(self, fault: str) -> None:
        """A process that ends by its scripted fault. Raises ChaosError when it does not."""
        child = self.start(fault)
        self.until_hit(child)
        child.wait(START_S)

    def until(self, what: str, condition: Callable[[], bool], within_s: float = START_S) -> None:
        """Until it holds. Raises ChaosError with `what`."""
        if not self.holds_within(condition, within_s):
            raise ChaosError(f"{self.stage}: not within {within_s:.0f} s: {what}; its logs are in {self.folder}")

    def holds_within(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Whether it comes to hold."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def lose_disk(self, home: str = "home") -> None:
        """The local tables are gone."""
        shutil.rmtree(self.folder / home / "state")

    def signal(self, child: processes.Child, number: signal.Signals) -> None:
        """To a process of this world."""
        os.kill(child.pid, number)

    def close(self) -> None:
        """Leave no process behind."""
        for child in self.children:
            if child.poll() is None:
                processes.send(child, signal.SIGKILL)
                child.wait()
        self._asker.close()

    # --- looking

    def positions(self) -> list[int]:
        """The group's positions; empty while Kafka can't say."""
        try:
            found = self._asker.committed([TopicPartition(self.inbox, p) for p in range(PARTITIONS)], timeout=5.0)
        except KafkaException:
            return []
        return [each.offset for each in found]

    def ends(self, topic: str) -> list[int]:
        """Where the partitions end, what is not committed included."""
        marks = (self._asker.get_watermark_offsets(TopicPartition(topic, p), timeout=5.0) for p in range(PARTITIONS))
        return [mark[1] if mark else 0 for mark in marks]

    def outputs(self) -> int:
        """How many records (and markers) there are in the output topic."""
        return sum(self.ends(self.out))

    def caught_up(self) -> bool:
        """Whether the positions are at the end of the inbox (it is not written by transactions)."""
        return self.positions() == self.ends(self.inbox)

    def behind(self) -> bool:
        """Whether the positions are known, and not at the end of the inbox."""
        found = self.positions()
        return bool(found) and found != self.ends(self.inbox)

    def rest(self, *, starting: bool = False) -> None:
        """Until nothing moves any more: no position, output or letter for STILL_S; of a process that starts, START_S."""
        begun = news = time.monotonic()
        before: Any = None
        moved = not starting
        while time.monotonic() - begun < REST_S:
            now = (self.positions(), self.ends(self.out), self.ends(self.letters), self.ends(f"{self.stage}.state"))
            if now != before:
                moved = moved or before is not None
                before, news = now, time.monotonic()
            still = time.monotonic() - news
            if still > (STILL_S if moved else START_S) or (moved and still > 1.0 and self._complete()):
                return
            time.sleep(0.1)

    def _complete(self) -> bool:
        """Whether each name that was published has an output or a letter; a broken build may never get there."""
        evidence = self._gathered()
        names = {one.name for one in self.published}
        ended = sum(len(evidence.topic(topic).records) for topic in (self.out, self.letters))
        waiting = any(record.value is not None for record in evidence.topic(f"{self.stage}.delayed").records)
        return self.caught_up() and ended >= len(names) and not waiting

    def _gathered(self) -> Evidence:
        stage = Stage(self.stage, self.kind, self.inbox, self.letters, (self.out,), (self.out,))
        contracts = PlainContracts(self.project / "contracts")
        return gather(self.bootstrap, self.published, (stage,), contracts, books=self.books, within_s=25.0)

    def evidence(self) -> Evidence:
        """Everything, when all processes have ended or have nothing to do."""
        return self._gathered()
