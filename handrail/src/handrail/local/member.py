"""One supervised process: a service with its pipe, or the broker; how often it has crashed and when it is due again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from handrail.errors import HandrailError
from handrail.local import processes, restarts
from handrail.local.kafka import LocalKafka
from handrail.local.logs import Lines
from handrail.local.ports import LOOPBACK, free_or, free_port
from handrail.local.services import Program, Runs, Service
from handrail.local.state import BROKEN, RUNNING, STOPPED, WAITING, ProcessState

WEB_PORT = 19080
"""Where the page is unless HANDRAIL_WEB says otherwise, or another stack's page is there."""
_BEFORE_S = 20.0


class Member:
    """What is started, watched and started again. Used by the supervisor's thread alone."""

    def __init__(self, service: Runs, env: Mapping[str, str]) -> None:
        self.service = service
        self.wanted = True
        self._page = service.page if isinstance(service, Program) else None
        self._env = dict(env)
        self._asked_web = env.get("HANDRAIL_WEB") or None
        self._http: str | None = None
        self._web: str | None = None
        self._child: processes.Child | None = None
        self._lines = Lines()
        self._started = 0.0
        self._due = 0.0
        self._in_a_row = 0
        self._state = ProcessState(service.name, STOPPED, None, since=0)

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def state(self) -> ProcessState:
        return self._state

    @property
    def child(self) -> processes.Child | None:
        """Its process while it has one that was not seen to end."""
        return self._child

    @property
    def is_due(self) -> bool:
        return self.wanted and self._child is None and time.monotonic() >= self._due

    def start(self) -> int:
        """Start the process; returns the descriptor of its output, which is non-blocking."""
        restarts_so_far = self._state.restarts + (1 if self._state.since else 0)
        self.clear_away()
        self._choose_places()
        places = {"HANDRAIL_HTTP": self._http, "HANDRAIL_WEB": self._web}
        env = {**self._env, **{name: place for name, place in places.items() if place}}
        self._child = processes.spawn(self.service.command, env=env, output=subprocess.PIPE)
        assert self._child.stdout is not None
        os.set_blocking(self._child.stdout.fileno(), False)
        self._started = time.monotonic()
        self._state = ProcessState(
            self.name,
            RUNNING,
            self._child.pid,
            _now(),
            restarts_so_far,
            http=self._http,
            page=self._page,
            web=self._web,
        )
        return self._child.stdout.fileno()

    def _choose_places(self) -> None:
        """Where it answers and shows its page: where it did before, unless somebody else is there by now.

        Chosen at each start: between the making of a stack and its start others may take a port that was free.
        """
        if not isinstance(self.service, Service):
            return
        if self.service.answers:
            self._http = _place(self._http, free_port())
        if self.service.web:
            self._web = self._asked_web or _place(self._web, WEB_PORT)

    def clear_away(self) -> None:
        """What one that was killed has left; that there is nothing is no trouble."""
        if isinstance(self.service, Program) and self.service.before:
            with suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(self.service.before, capture_output=True, timeout=_BEFORE_S, check=False)

    def read(self) -> tuple[list[str], bool]:
        """The lines that it has written by now, and whether more may come."""
        lines: list[str] = []
        if self._child is None or self._child.stdout is None:
            return lines, False
        while data := self._child.stdout.read(65536):  # an unbuffered pipe: None when empty, b"" at its end
            lines.extend(self._lines.feed(data))
        return lines, data is None

    def see_end(self) -> Iterator[str]:
        """If the process has ended: its last lines and what is done about it, told as one more line."""
        if self._child is None or self._child.poll() is None:
            return
        child = self._child
        processes.sweep(child)
        yield from self.read()[0]
        yield from self._lines.end()
        assert child.stdout is not None
        child.stdout.close()
        self._child = None
        code, lived = child.returncode, time.monotonic() - self._started
        if self.wanted:
            again = restarts.after_end(code, lived, self._in_a_row)
            self._in_a_row = again.in_a_row
            self._due = time.monotonic() + again.after_s
            self._end(BROKEN if again.config_error else WAITING, again.reason)
            yield f"[supervisor] ended: {again.reason}; starts again in {again.after_s:g} s"
        else:
            self._end(STOPPED, restarts.describe(code))
            if code not in (0, -signal.SIGTERM):
                yield f"[supervisor] ended while stopping: {restarts.describe(code)}"

    def want(self, wanted: bool) -> None:
        """Whether it should run; if so, at once."""
        self.wanted = wanted
        self._due = 0.0
        if not wanted and self._child is None:
            self._end(STOPPED, self._state.note)

    def _end(self, state: str, note: str) -> None:
        self._state = ProcessState(self.name, state, None, _now(), self._state.restarts, note, page=self._page)


class BrokerMember:
    """The local Kafka, started again when it ends. Its first start is waited for; services outlast the later ones."""

    name = "kafka"

    def __init__(self, kafka: LocalKafka) -> None:
        self.kafka = kafka
        self._started = 0.0
        self._due: float | None = None
        self._in_a_row = 0
        self._state = ProcessState(self.name, STOPPED, None, since=0)

    @property
    def state(self) -> ProcessState:
        return self._state

    def start(self, cancelled: Callable[[], bool]) -> None:
        """Start it and wait until it answers. Raises as LocalKafka.start does."""
        self.kafka.start(cancelled=cancelled)
        self._is_running(restarts_so_far=0)

    def watch(self) -> Iterator[str]:
        """Notice its end, and start it again when that is due."""
        if self._due is None and not self.kafka.alive:
            code = self.kafka.exit_code or 0
            yield self._plan(code, self.kafka.trouble() if code > 0 else "")
        elif self._due is not None and time.monotonic() >= self._due:
            self._due = None
            try:
                self.kafka.launch()
                self._is_running(self._state.restarts + 1)
            except HandrailError as error:
                yield self._plan(1, str(error))

    def stop(self, within_s: float) -> None:
        self.kafka.stop(within_s)
        self._state = ProcessState(self.name, STOPPED, None, _now(), self._state.restarts)

    def _is_running(self, restarts_so_far: int) -> None:
        self._started = time.monotonic()
        self._state = ProcessState(self.name, RUNNING, self.kafka.pid, _now(), restarts_so_far)

    def _plan(self, exit_code: int, why: str) -> str:
        lived = time.monotonic() - self._started if self._state.state == RUNNING else 0.0
        again = restarts.after_end(exit_code, lived, self._in_a_row)
        self._in_a_row = again.in_a_row
        self._due = time.monotonic() + again.after_s
        note = f"{again.reason}: {why}" if why else again.reason
        self._state = ProcessState(self.name, WAITING, None, _now(), self._state.restarts, note)
        return f"[supervisor] ended: {note}; starts again in {again.after_s:g} s"


def _place(before: str | None, otherwise: int) -> str:
    port = int(before.rpartition(":")[2]) if before else otherwise
    return f"{LOOPBACK}:{free_or(port)}"


def _now() -> int:
    return time.time_ns() // 1_000_000
