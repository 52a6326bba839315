"""The local stack as an object: Kafka, topics and services under one supervisor, which starts again what crashes."""

from __future__ import annotations

import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from handrail.errors import HandrailError
from handrail.kafka.provision import load_topology, provision
from handrail.kafka.topics import Topology
from handrail.local import processes
from handrail.local.kafka import LocalKafka
from handrail.local.logs import LogFiles
from handrail.local.member import BrokerMember, Member
from handrail.local.services import SERVICES, Runs, choose
from handrail.local.state import RUNNING, STARTING, STOPPING, UP, ProcessState, StackFolder, StackState, unusable
from handrail.settings import DEFAULT_PORT, Settings

T = TypeVar("T")

TICK_S = 0.1
SERVICES_END_S = 10.0
KAFKA_ENDS_S = 15.0


class Stack:
    """Kafka and services, each its own process, below the state folder `home`.

    `services` are names, Service or Program values, all services for None. `env` is added to the environment of
    each, `per_service_env` to that of one; `python_path` goes before theirs. `on_log(service, line)` and
    `on_progress(text)` are called from the supervisor's thread. `topology` says which topics to make (None: those of
    contracts, flows and topics.yaml). With `bootstrap` no Kafka is started: that one is used. `grace_s` is how long
    services may take to end.

    Every process is started by one thread that lives as long as the stack, because the kernel ends a process with the
    thread that started it (handrail.local.launch): killed with -9, the stack leaves nothing behind.
    """

    def __init__(
        self,
        home: Path,
        port: int = DEFAULT_PORT,
        *,
        services: Sequence[str | Runs] | None = None,
        env: Mapping[str, str] | None = None,
        per_service_env: Mapping[str, Mapping[str, str]] | None = None,
        python_path: Sequence[Path | str] = (),
        on_log: Callable[[str, str], None] | None = None,
        on_progress: Callable[[str], None] | None = None,
        bootstrap: str | None = None,
        topology: Topology | None = None,
        grace_s: float = SERVICES_END_S,
    ) -> None:
        self._folder = StackFolder(home)
        self.kafka = None if bootstrap else LocalKafka(self._folder.kafka, port)
        self.bootstrap = bootstrap or f"127.0.0.1:{port}"
        self._topology = topology
        self._grace_s = grace_s
        self._on_log = on_log
        self._on_progress = on_progress or (lambda _text: None)
        self._env = self._environment(env or {}, python_path)
        per_service = per_service_env or {}
        chosen = SERVICES if services is None else [_service(service) for service in services]
        self._members = [Member(one, {**self._env, **per_service.get(one.name, {})}) for one in chosen]
        self._broker = BrokerMember(self.kafka) if self.kafka else None
        self._logs = LogFiles(self._folder.logs)
        self._selector = selectors.DefaultSelector()
        self._changed = threading.Condition()
        self._started_at = 0
        self._phase = STARTING
        self._published: StackState | None = None
        self._failure: BaseException | None = None
        # Plain flags: a signal handler may set them at any moment, which the lock in a threading.Event forbids.
        self._stop_asked = False
        self._hurried = False
        self._thread: threading.Thread | None = None

    # -- for the caller ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start Kafka, make the topics, start the services. A stack is started once; make a new one for the next time.

        Returns early, with nothing started, if the end is asked for meanwhile. Raises AlreadyRunning, ConfigError,
        StateError, Unreachable, HandrailError; then nothing of it is left.
        """
        self._folder.acquire()
        self._started_at = time.time_ns() // 1_000_000
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._phase != STARTING or self._failure is not None)
        except BaseException:
            self.stop()
            raise
        if self._failure is not None:
            failure = self._failure
            self.stop()
            raise failure

    def settle(self, alive_s: float) -> tuple[ProcessState, ...]:
        """Watch the processes for `alive_s` seconds; returns those that have ended meanwhile, none if all is well."""

        def ended() -> tuple[ProcessState, ...]:
            return tuple(process for process in self.state().processes if process.state != RUNNING)

        with self._changed:
            self._changed.wait_for(lambda: ended() or self._phase != UP, alive_s)
        return ended()

    def stop(self) -> None:
        """End services, then Kafka, and wait for it. Nothing to do if it does not run."""
        self.begin_stop()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._folder.release()

    def begin_stop(self, *, hurry: bool = False) -> None:
        """Ask for the end and do not wait; with `hurry` kill what would have had time to end. Safe in a signal handler."""
        self._hurried = self._hurried or hurry
        self._stop_asked = True

    def wait(self) -> None:
        """Block until all has ended because somebody asked for it. Raises what ended it otherwise."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(timeout=3600)
        if self._failure is not None:
            raise self._failure

    def state(self) -> StackState:
        """What runs now."""
        services = tuple(member.state for member in self._members)
        kafka = self._broker.state if self._broker else None
        return StackState(os.getpid(), self._started_at, self._phase, self.bootstrap, kafka, services)

    def pids(self) -> dict[str, int]:
        """The process ids of what runs: services by name, and `kafka`."""
        return {process.name: process.pid for process in self.state().processes if process.pid is not None}

    def kill9(self, service: str) -> int:
        """Kill a service, or `kafka`, as a crash would. Returns the id of the killed process."""
        pid = self.pids().get(service)
        if pid is None:
            raise HandrailError(f"{service} does not run, so it can't be killed")
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_restarted(self, service: str, old_pid: int, timeout: float = 30.0) -> int:
        """Wait until `service` runs with another process id than `old_pid`; returns it. Raises HandrailError."""
        return self._wait_for(
            lambda: next((pid for name, pid in self.pids().items() if name == service and pid != old_pid), None),
            timeout,
            f"{service} (pid {old_pid}) was not started again within {timeout:g} s",
        )

    def stop_service(self, service: str, timeout: float = SERVICES_END_S) -> None:
        """End one service and leave it so, while the others go on. Raises HandrailError if it does not end in time."""
        member = self._member(service)
        member.want(False)
        if member.child:
            processes.send(member.child, signal.SIGTERM)
        self._wait_for(
            lambda: True if service not in self.pids() else None, timeout, f"{service} did not end in {timeout:g} s"
        )

    def start_service(self, service: str, timeout: float = 10.0) -> int:
        """Start a service that `stop_service` has ended; returns its process id."""
        self._member(service).want(True)
        return self._wait_for(lambda: self.pids().get(service), timeout, f"{service} was not started")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- the supervisor's thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._bring_up()
            while not self._stop_asked:
                self._turn()
        except BaseException as error:
            self._failure = error
        finally:
            self._bring_down()

    def _bring_up(self) -> None:
        self._publish(STARTING, must=True)
        if self._broker:
            self._on_progress(f"starting Kafka at {self.bootstrap}")
            self._broker.start(cancelled=lambda: self._stop_asked)
        if self._stop_asked:
            return
        self._on_progress("making topics")
        topology = load_topology(Settings.from_env(self._env)) if self._topology is None else self._topology
        provision(self.bootstrap, topology)
        if not self._stop_asked:
            self._on_progress(f"starting {', '.join(member.name for member in self._members) or 'no services'}")
            self._start_due()
            self._publish(UP)

    def _turn(self) -> None:
        for key, _ in self._selector.select(timeout=TICK_S):
            member: Member = key.data
            lines, more = member.read()
            self._log(member.name, lines)
            if not more:
                self._selector.unregister(key.fileobj)
        self._see_ends()
        if self._phase == UP:
            self._start_due()
            if self._broker:
                self._log(self._broker.name, self._broker.watch())
        self._publish(self._phase)

    def _see_ends(self) -> None:
        for member in self._members:
            if member.child is None or member.child.poll() is None:
                continue
            watched = [key.fd for key in self._selector.get_map().values() if key.data is member]
            for descriptor in watched:
                self._selector.unregister(descriptor)
            self._log(member.name, member.see_end())

    def _start_due(self) -> None:
        for member in self._members:
            if member.is_due:
                self._selector.register(member.start(), selectors.EVENT_READ, member)

    def _bring_down(self) -> None:
        """Services first, Kafka last: what they have in hand can still be committed."""
        self._publish(STOPPING)
        killed: list[Member] = []
        for number, within_s in ((signal.SIGTERM, self._grace_s), (signal.SIGKILL, SERVICES_END_S)):
            for member in self._members:
                member.want(False)
                if member.child:
                    processes.send(member.child, number)
                    if number == signal.SIGKILL:
                        killed.append(member)
            deadline = time.monotonic() + within_s
            while self._living() and time.monotonic() < deadline and not self._is_hurried(number):
                self._turn()
        for member in killed:
            member.clear_away()
        if self._broker:
            self._broker.stop(0.0 if self._hurried else KAFKA_ENDS_S)
        self._selector.close()
        self._logs.close()
        self._publish(STOPPING)

    def _is_hurried(self, number: signal.Signals) -> bool:
        return number == signal.SIGTERM and self._hurried

    def _living(self) -> bool:
        return any(member.child for member in self._members)

    def _publish(self, phase: str, *, must: bool = False) -> None:
        self._phase = phase
        state = self.state()
        if state == self._published:
            return
        try:
            self._folder.write(state)
        except OSError as error:  # a full disk later on must not end what runs
            if must:
                raise unusable(self._folder.home, error) from error
        self._published = state
        with self._changed:
            self._changed.notify_all()

    def _log(self, service: str, lines: Iterable[str]) -> None:
        for line in lines:
            self._logs.write(service, line)
            if self._on_log:
                try:
                    self._on_log(service, line)
                except OSError:  # nobody reads our console any more; the files go on
                    self._on_log = None

    # -- small things ----------------------------------------------------------------------------------------------

    def _environment(self, given: Mapping[str, str], python_path: Sequence[Path | str]) -> dict[str, str]:
        env = {**os.environ, **given, "HANDRAIL_HOME": str(self._folder.home), "HANDRAIL_BOOTSTRAP": self.bootstrap}
        settings = Settings.from_env(env)
        paths = [*map(str, python_path), *filter(None, [env.get("PYTHONPATH")])]
        return {
            **env,
            "HANDRAIL_CONTRACTS": str(settings.contracts),
            "HANDRAIL_FLOWS": str(settings.flows),
            "HANDRAIL_SYSTEMS": str(settings.systems),
            "HANDRAIL_TOPICS": str(settings.topics),
            "HANDRAIL_LEDGER": str(settings.ledger),
            "HANDRAIL_ORDINAL": str(settings.ordinal),
            "PYTHONUNBUFFERED": "1",
            **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {}),
        }

    def _member(self, name: str) -> Member:
        for member in self._members:
            if member.name == name:
                return member
        raise HandrailError(f"this stack has no service {name!r}")

    def _wait_for(self, look: Callable[[], T | None], timeout: float, otherwise: str) -> T:
        with self._changed:
            found = self._changed.wait_for(look, timeout)
        if not found:
            raise HandrailError(otherwise)
        return found


def _service(given: str | Runs) -> Runs:
    return choose([given])[0] if isinstance(given, str) else given
