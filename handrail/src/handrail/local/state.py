"""`.handrail/up.json`: who runs here, for `status`, `down` and a second `up`; and the lock that makes it the only one."""

from __future__ import annotations

import fcntl
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from handrail.errors import HandrailError, StateError

STARTING, UP, STOPPING = "starting", "up", "stopping"
RUNNING, WAITING, BROKEN, STOPPED = "running", "restarting", "config error", "stopped"


_ATTEMPTS = 5


class AlreadyRunning(HandrailError):
    """A stack runs in this folder already."""


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One process of the stack.

    `since` is when it was started or ended, ms; `note` says why it is not running; `http` is where it answers about its
    health and `web` where the page of Handrail is (host:port), `page` the URL of what a foreign program shows to people.
    """

    name: str
    state: str
    pid: int | None
    since: int
    restarts: int = 0
    note: str = ""
    http: str | None = None
    page: str | None = None
    web: str | None = None


@dataclass(frozen=True, slots=True)
class StackState:
    """The stack: its supervisor's pid, since when (ms), its Kafka and its services. `kafka` is None for a foreign one."""

    pid: int
    started_at: int
    state: str
    bootstrap: str
    kafka: ProcessState | None = None
    services: tuple[ProcessState, ...] = field(default=())

    @property
    def processes(self) -> tuple[ProcessState, ...]:
        return (*((self.kafka,) if self.kafka else ()), *self.services)

    @property
    def web(self) -> str | None:
        """The address of the page that shows how all goes, while that runs."""
        return next((f"http://{one.web}/" for one in self.services if one.web and one.state == RUNNING), None)

    @property
    def whole(self) -> bool:
        """Whether everything runs."""
        return self.state == UP and all(process.state == RUNNING for process in self.processes)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> StackState:
        raw: dict[str, Any] = json.loads(text)
        kafka = raw.pop("kafka")
        services = tuple(ProcessState(**service) for service in raw.pop("services"))
        return cls(**raw, kafka=ProcessState(**kafka) if kafka else None, services=services)


class StackFolder:
    """The state folder of one stack: lock, state file, and where logs and Kafka's data go."""

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
        self.logs = self.home / "logs"
        self.kafka = self.home / "kafka"
        self._state_file = self.home / "up.json"
        self._lock_file = self.home / "up.lock"
        self._lock: IO[bytes] | None = None

    def acquire(self) -> None:
        """Make this process the one that runs the stack. Raises AlreadyRunning, StateError."""
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            lock = self._lock_file.open("ab")
        except OSError as error:
            raise unusable(self.home, error) from error
        for attempt in range(_ATTEMPTS):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if attempt == _ATTEMPTS - 1:
                    lock.close()
                    raise AlreadyRunning(self.who_runs()) from error
                time.sleep(0.02)  # a `status` that looks at this moment holds it, too
        self._lock = lock

    def release(self) -> None:
        """Give the folder free. The state file goes with it."""
        if self._lock is not None:
            self._state_file.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def write(self, state: StackState) -> None:
        """Replace the state file. Raises OSError."""
        new = self._state_file.with_suffix(".new")
        new.write_text(state.to_json(), encoding="utf-8")
        new.replace(self._state_file)

    def read(self) -> StackState | None:
        """The state of the stack that runs here; None if none does, whatever an old state file says."""
        if not self.is_locked():
            return None
        try:
            return StackState.from_json(self._state_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # between the lock and the first state
            return None

    def is_locked(self) -> bool:
        """Whether a living supervisor has this folder: the kernel drops its lock however it ends."""
        try:
            with self._lock_file.open("rb") as probe:
                fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def who_runs(self) -> str:
        """What to say to somebody who would start a second stack here."""
        state = self.read()
        if state is None:
            return f"a stack is just being started or stopped in {self.home}: wait a moment (handrail status)"
        return (
            f"a stack runs already in {self.home}: pid {state.pid}, Kafka at {state.bootstrap}. "
            "Look at it with `handrail status`, stop it with `handrail down`, or give this one a folder and a port of "
            "its own: HANDRAIL_HOME=<folder> handrail up --port <port>"
        )


def unusable(folder: Path, error: OSError) -> StateError:
    """What to say when the state folder can't be written."""
    return StateError(
        f"{folder}: the state folder can't be written: {error.strerror or error} "
        "(make room or make it writable, or choose another with HANDRAIL_HOME=<folder>)"
    )
