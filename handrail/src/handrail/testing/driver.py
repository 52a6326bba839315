"""Drives one real stage on the in-memory log, step by step, with a clock that stands still while it works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from handrail import envelope
from handrail.contracts import Contracts
from handrail.envelope import Replay
from handrail.log import Fault, Outgoing, Record, no_fault
from handrail.message import Run
from handrail.recovery.letter import headers_of
from handrail.spec import Spec, Worker
from handrail.stage import Stage, private_topics
from handrail.tables import Identity
from handrail.telemetry import Telemetry
from handrail.testing.clock import ManualClock
from handrail.testing.memory import MemoryBroker, MemoryLog


class Killed(BaseException):
    """The process has ended here, as by kill -9: no `except` of the stage may see it."""


class StageDriver:
    """One stage, its log and its clock. Makes the topics that the stage reads, its dead letters and `outs`.

    A stage that pauses lets that time pass for its clock and for the broker, unless there is another `pause`.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        spec: Spec,
        contracts: Contracts,
        home: Path,
        *,
        worker: Worker | None = None,
        clock: ManualClock | None = None,
        ordinal: int = 0,
        fault: Fault = no_fault,
        outs: Sequence[str] = ("out",),
        make_log: Callable[..., MemoryLog] = MemoryLog,
        pause: Callable[[float], None] | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.broker, self.spec, self.contracts = broker, spec, contracts
        for topic in (spec.inbox, *private_topics(spec.name)):
            broker.partitions.setdefault(topic, 1)
        for topic in (*outs, spec.dead_letters, "recovery.letters.replay"):
            broker.partitions.setdefault(topic, spec.partitions(topic))
        for partition in range(broker.partitions_of(spec.inbox)):
            broker.provision(spec.name, partition)
        self.log = make_log(broker, spec.name, spec.inbox, ordinal=ordinal, fault=fault)
        self.clock = clock or ManualClock(broker.now)
        self.stage = Stage(
            spec,
            self.log,
            contracts,
            folder=lambda partition: home / spec.name / str(partition),
            identity=lambda partition: Identity(spec.name, partition, broker.partitions_of(spec.inbox), {}),
            clock=self.clock,
            telemetry=telemetry or Telemetry(),
            jitter=lambda: 0.0,
            worker=worker,
            fault=fault,
            pause=pause or self._let_pass,
        )
        self._home, self._closed = home, False
        self._in_hand: dict[Path, bytes] | None = None

    def _let_pass(self, seconds: float) -> None:
        ms = round(seconds * 1000)
        self.clock.advance(ms)
        self.broker.advance(ms)

    def send(
        self,
        type: str,  # noqa: A002 - the name of the CloudEvents attribute
        key: str,
        value: bytes | None,
        *,
        id: str,  # noqa: A002
        run: Run | None = None,
        traceparent: str | None = None,
    ) -> Record:
        """Put one internal record into the inbox."""
        headers = envelope.write_internal(id, type, traceparent, run, "test", key)
        return self.broker.publish(self.spec.inbox, key, value, headers)

    def replay(self, letter: Mapping[str, Any], generation: int | None = None, order: str | None = None) -> None:
        """Put a dead letter's original into the replay topic, as recovery does; `order` is the order's trace context."""
        added = envelope.replay_headers(
            Replay(
                letter["letter"],
                generation if generation is not None else letter["generation"],
                letter["topic"],
                letter["partition"],
                letter["offset"],
                order,
            )
        )
        headers = (*headers_of(letter["headers"]), *added)
        topic = f"{self.spec.name}.replay"
        self.broker.append(Outgoing(topic, letter["partition"], letter["key"], letter["value"], headers))

    def letters(self) -> list[dict[str, Any]]:
        """Bodies of all dead letters so far."""
        return [self.contracts.decode(record.value or b"")[1] for record in self.broker.records(self.spec.dead_letters)]

    def drain(self, until: Callable[[], bool] | None = None, steps: int = 1_000) -> None:
        """Step until nothing more is committed (or `until` holds)."""
        quiet = 0
        for _ in range(steps):
            if until is not None and until():
                return
            quiet = 0 if self.stage.step() else quiet + 1
            if quiet >= 3 and until is None:
                return
        raise AssertionError(f"{self.spec.name} is not quiet after {steps} steps")

    def die(self) -> NoReturn:
        """Call it in a step, at a fault point or in the handler: raises Killed, and what was in hand stays in hand."""
        self._in_hand = self._look_in_hand()
        raise Killed(self.spec.name)

    def crash(self) -> None:
        """As by kill -9: nothing is finished; only the files' locks are let go."""
        if not self._closed:
            self._closed = True
            in_hand = self._look_in_hand() if self._in_hand is None else self._in_hand
            self.stage.close()
            for file, content in in_hand.items():
                file.write_bytes(content)

    def _look_in_hand(self) -> dict[Path, bytes]:
        """The crash counters' files (handrail.crashes), as another process would find them now."""
        return {file: file.read_bytes() for file in (self._home / self.spec.name).glob("crashes-*/in-hand")}
