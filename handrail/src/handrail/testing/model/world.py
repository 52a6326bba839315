"""The world of the model: a broker, processes of one stage that come and go, and what was published."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handrail import envelope
from handrail.contracts import Contracts
from handrail.envelope import Replay
from handrail.errors import Aborted, Fenced
from handrail.identity import partition_for
from handrail.log import Outgoing
from handrail.recovery.letter import headers_of
from handrail.spec import Handler, Spec
from handrail.stage import private_topics
from handrail.testing.clock import ManualClock
from handrail.testing.driver import Killed, StageDriver
from handrail.testing.memory import MemoryBroker, MemoryLog
from handrail.testing.model.subject import (
    LARGEST,
    LETTERS,
    ORDER,
    OUT,
    PARTITIONS,
    STAGE,
    Counting,
    Desk,
    order,
)
from handrail.testing.model.subject import spec as usual_spec

ORDINALS = (0, 1)
TORN = b"\x00torn"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is judged: the log that each process gets, the stage's spec, and its handler. The defaults are ours.

    `contracts` must have orders/order-accepted.v1 and those of handrail.
    """

    contracts: Contracts
    log: Callable[..., MemoryLog] = MemoryLog
    spec: Callable[[Handler], Spec] = usual_spec
    handler: Callable[[Contracts, dict[str, str], Callable[[], None]], Handler] = Counting


@dataclass(slots=True)
class Input:
    """One event: its key, its number in the key, and whether its bytes are torn."""

    key: str
    number: int
    kind: str
    torn: bool = False

    @property
    def id(self) -> str:
        return f"{self.key}/{self.number}"

    @property
    def partition(self) -> int:
        return partition_for(self.key, PARTITIONS)

    def record(self, contracts: Contracts) -> Outgoing:
        value = TORN if self.torn else order(contracts, self.key, self.number, self.kind)
        headers = envelope.write_internal(self.id, ORDER, None, None, "test", self.key)
        return Outgoing(f"{STAGE}.in", self.partition, self.key.encode(), value, headers)


@dataclass(eq=False)
class Process:
    """One life of one process. `script` maps a fault point to what happens when it is next reached, once."""

    ordinal: int
    home: Path
    driver: StageDriver
    desk: Desk
    script: dict[str, Callable[[], None]] = field(default_factory=dict)
    alive: bool = True
    stepping: bool = False


class World:
    """Everything, and what can be done to it. `intents` are the ids of orders whose call was committed to be made."""

    def __init__(self, subject: Subject) -> None:
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="handrail-model-", dir=memory if memory.is_dir() else None))
        self.subject = subject
        self.broker = MemoryBroker(largest=LARGEST)
        for topic in (f"{STAGE}.in", OUT, LETTERS, "recovery.letters.replay", *private_topics(STAGE)):
            self.broker.create(topic, PARTITIONS)
        self.clock = ManualClock(self.broker.now)
        self.failing: dict[str, str] = {}
        self.spec = subject.spec(
            subject.handler(subject.contracts, self.failing, lambda: self._stepping[-1].driver.die())
        )
        self.inputs: dict[str, Input] = {}
        self.numbers: dict[str, int] = {}
        self.unsure: dict[str, str] = {}  # input -> the open or aborted transaction that it was published in
        self.running: dict[int, Process] = {}
        self.zombies: list[Process] = []
        self.foreign: dict[str, Any] = {}
        self.starts = 0
        self._stepping: list[Process] = []
        self.deaths: list[str] = []
        self.fallen: dict[int, Path] = {}
        self.has_intent: Callable[[str], bool] = lambda _event: True

    def close(self) -> None:
        for process in (*self.running.values(), *self.zombies):
            self.kill(process)
        shutil.rmtree(self.folder)

    # --- input

    def new_input(self, key: str, kind: str, torn: bool) -> Input:
        number = self.numbers[key] = self.numbers.get(key, 0) + 1
        made = Input(key, number, kind, torn)
        self.inputs[made.id] = made
        return made

    def publish(self, given: Input) -> None:
        self.broker.append(given.record(self.subject.contracts))

    def replay(self, letter: dict[str, Any], generation: int) -> None:
        """What recovery does when a person says: again."""
        where = letter["topic"], letter["partition"], letter["offset"]
        header = envelope.write_replay(Replay(letter["letter"], generation, *where))
        headers = (*headers_of(letter["headers"]), header)
        self.broker.append(Outgoing(f"{STAGE}.replay", letter["partition"], letter["key"], letter["value"], headers))

    # --- processes

    def start(self, ordinal: int, home: Path | None = None) -> Process:
        """A process starts; one of the same ordinal that still runs is a zombie from now on."""
        older = self.running.pop(ordinal, None)
        if older is not None:
            self.zombies.append(older)
        self.starts += 1
        desk = Desk(self._check_intent)
        home = home or self.folder / str(self.starts)
        holder: list[Process] = []

        def fault(point: str) -> None:
            action = holder[0].script.pop(point, None) if holder else None
            if action is not None:
                action()

        driver = StageDriver(
            self.broker, self.spec, self.subject.contracts, home, worker=desk, clock=self.clock, ordinal=ordinal, fault=fault,
            make_log=self.subject.log,
        )  # fmt: skip
        process = Process(ordinal, home, driver, desk)
        holder.append(process)
        self.running[ordinal] = process
        return process

    def _check_intent(self, event: str) -> None:
        assert self.has_intent(event), f"a call for {event} before its intent was committed"

    def step(self, process: Process) -> bool:
        """One step; a process that must end does."""
        if not process.alive or process.stepping:
            return False
        process.stepping = True
        self._stepping.append(process)
        try:
            return process.driver.stage.step()
        except (Killed, Fenced, Aborted) as error:
            self.deaths.append(type(error).__name__)
            self.kill(process)
            self.fallen[process.ordinal] = process.home
            return False
        finally:
            process.stepping = False
            self._stepping.pop()

    def supervise(self) -> bool:
        """Start again, on its disk, what ended by itself; whether there was any."""
        fallen = {ordinal: home for ordinal, home in self.fallen.items() if ordinal not in self.running}
        self.fallen.clear()
        for ordinal, home in fallen.items():
            self.start(ordinal, home)
        return bool(fallen)

    def kill(self, process: Process) -> None:
        """The process is gone; its place in the group is kept until its session times out."""
        if process.alive:
            process.alive = False
            process.script.clear()
            process.driver.crash()
        if self.running.get(process.ordinal) is process:
            del self.running[process.ordinal]
        if process in self.zombies:
            self.zombies.remove(process)

    def processes(self) -> list[Process]:
        return [*(self.running[ordinal] for ordinal in sorted(self.running)), *self.zombies]

    def expel(self, ordinal: int) -> None:
        """The session of this ordinal times out."""
        self.group.expel(f"{STAGE}-{ordinal}")

    @property
    def group(self) -> Any:
        return self.broker.group(STAGE, f"{STAGE}.in")

    def pass_time(self, ms: int) -> None:
        self.clock.advance(ms)
        self.broker.advance(ms)

    # --- other people's transactions

    def open_foreign(self, name: str, record: Outgoing) -> None:
        """Somebody else writes into one of our topics, in a transaction that stays open."""
        if name not in self.foreign:
            self.foreign[name] = self.broker.producer(name)
        self.foreign[name].produce(record)

    def end_foreign(self, name: str, commit: bool) -> None:
        """It ends, unless it had been timed out before."""
        producer = self.foreign.pop(name)
        published = [event for event, owner in self.unsure.items() if owner == name]
        try:
            (producer.commit if commit else producer.abort)()
        except Fenced:
            commit = False
        for event in published:
            if commit:
                del self.unsure[event]
            else:
                self.unsure[event] = ""
