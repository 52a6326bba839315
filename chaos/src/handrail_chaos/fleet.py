"""Every process of the run but Kafka: started again at once when it ends, each start armed with another fault point."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from handrail.local import processes
from handrail.local.services import Service

from handrail_chaos.nursery import Born, Nursery
from handrail_chaos.rotation import STAGES, Arming, Place, Rotation

AGAIN_S, AGAIN_CAP_S = 0.1, 2.0
LONG_ENOUGH_S = 5.0
_KILLED_S = 10.0
COMES_WITHIN_S = 12.0
"""A second member may get no partition, and then never says that it is ready."""


@dataclass(frozen=True, slots=True)
class Death:
    """How one process ended. `place` is the fault point that killed it."""

    name: str
    code: int
    lived_s: float
    place: Place | None


class Member:
    """One process, by service and ordinal. Ordinal 0 runs all the time, others come and go."""

    def __init__(self, service: Service, ordinal: int, env: Mapping[str, str]) -> None:
        self.service, self.ordinal, self.env = service, ordinal, dict(env)
        self.wanted = True
        self.stopped = False
        self.child: processes.Child | Born | None = None
        self.armed: Arming | None = None
        self.due = 0.0
        self.started = 0.0
        self.ready: float | None = None
        self.log_from = 0
        self.failures = 0
        self.forget = False
        self.leaving: tuple[str, float] | None = None

    @property
    def name(self) -> str:
        return f"{self.service.name}-{self.ordinal}"

    @property
    def alive(self) -> bool:
        return self.child is not None and self.child.poll() is None


class Fleet:
    """All members. `tick` starts what is due and notices what has ended; one thread that lives as long does everything."""

    def __init__(
        self,
        home: Path,
        env: Mapping[str, str],
        services: Mapping[str, tuple[Service, Mapping[str, str]]],
        rotations: Mapping[str, Rotation],
        on_death: Callable[[Death], None],
        nursery: Nursery,
    ) -> None:
        """`services` by name, each with what its environment has beside `env`. The nursery starts those with stages."""
        self._nursery = nursery
        self._home, self._env, self._services = home, dict(env), services
        self._rotations, self._on_death = rotations, on_death
        self.armed = False
        self.hit: set[Place] = set()
        self.hits: Counter[Place] = Counter()
        self.members = {f"{name}-0": self._member(name, 0) for name in services}
        for folder in ("flags", "logs"):
            (home / folder).mkdir(parents=True, exist_ok=True)

    def tick(self) -> None:
        """Notice ends, start what is due."""
        for member in list(self.members.values()):
            self._see_end(member)
            self._see_ready(member)
            self._see_off(member)
            if member.child is None and member.wanted and time.monotonic() >= member.due:
                self._start(member)
            elif member.child is None and not member.wanted and member.ordinal > 0:
                del self.members[member.name]

    def kill(self, name: str) -> bool:
        """SIGKILL; whether it ran."""
        return self._signal(name, signal.SIGKILL)

    def end(self, name: str) -> bool:
        """SIGTERM: it ends cleanly, and is started again if it is wanted."""
        return self._signal(name, signal.SIGTERM)

    def freeze(self, name: str, frozen: bool) -> bool:
        """SIGSTOP or SIGCONT; whether it ran."""
        member = self.members.get(name)
        if member is not None:
            member.stopped = frozen
        return self._signal(name, signal.SIGSTOP if frozen else signal.SIGCONT)

    def forget(self, name: str) -> bool:
        """Kill it, and remove its local state before it is started again."""
        self.members[name].forget = True
        return self.kill(name)

    def join(self, service: str) -> None:
        """A second member of this service."""
        member = self.members.setdefault(f"{service}-1", self._member(service, 1))
        member.wanted, member.due, member.leaving = True, 0.0, None

    def leave(self, service: str, how: str) -> bool:
        """The second member goes, cleanly or not; where it has not come yet, when it has."""
        member = self.members.get(f"{service}-1")
        if member is None:
            return False
        member.leaving = (how, time.monotonic() + COMES_WITHIN_S)
        self._see_off(member)
        return True

    def want(self, name: str, wanted: bool) -> None:
        """Whether it is started again when it has ended."""
        self.members[name].wanted = wanted
        self.members[name].due = 0.0

    def arm(self, name: str, arming: Arming) -> None:
        """Kill it, so that its next start has this fault point. For the places that the storm has missed."""
        member = self.members[name]
        if member.alive:
            self.kill(name)
            assert member.child is not None
            member.child.wait()
        self._see_end(member)
        self._start(member, arming)

    def missing(self, places: list[Place]) -> list[Place]:
        """Those that were never hit."""
        return [place for place in places if place not in self.hit]

    def stop(self, within_s: float) -> list[str]:
        """End everything cleanly; the names of those that had to be killed."""
        living = []
        for member in self.members.values():
            member.wanted = False
            if member.stopped:
                self.freeze(member.name, False)
            if member.child is not None:
                living.append(member)
                self.end(member.name)
        deadline, late = time.monotonic() + within_s, []
        for member in living:
            if not _has_ended(member, deadline):
                late.append(member.name)
                self.kill(member.name)
                _has_ended(member, time.monotonic() + _KILLED_S)
        return late

    # --- small things

    def _member(self, service: str, ordinal: int) -> Member:
        known, more = self._services[service]
        return Member(known, ordinal, {**self._env, **more, "HANDRAIL_ORDINAL": str(ordinal), "PYTHONUNBUFFERED": "1"})

    def _start(self, member: Member, arming: Arming | None = None) -> None:
        rotation = self._rotations.get(member.service.name)
        if arming is None and rotation is not None and self.armed and member.ordinal == 0:
            arming = rotation.next(self.hit)
        member.armed = arming
        env = dict(member.env)
        if arming is not None:
            env["HANDRAIL_FAULT"] = f"{arming.place}:{arming.nth}:{self._flag(member, arming)}"
        if member.forget or (arming is not None and arming.place.point == "during-restore"):
            self._remove_state(member)  # with all of its tables there, there would be nothing to restore
            member.forget = False
        with self._log(member).open("ab") as log:
            member.log_from, member.ready = log.tell(), None
            if member.service.name in STAGES:
                member.child = self._nursery.start(member.service.module, env, self._log(member))
            else:
                member.child = processes.spawn(member.service.command, env=env, output=log)
        member.started, member.stopped = time.monotonic(), False

    def _log(self, member: Member) -> Path:
        return self._home / "logs" / f"{member.name}.log"

    def _see_ready(self, member: Member) -> None:
        """It is ready when its log says so: on a busy machine that takes a while."""
        if member.child is None or member.ready is not None:
            return
        with self._log(member).open("rb") as log:
            log.seek(member.log_from)
            if log.read().count(b'"event": "restored"') >= len(STAGES.get(member.service.name, ())):
                member.ready = time.monotonic()

    def _see_off(self, member: Member) -> None:
        """Let it go if it is to leave, and has come at all."""
        if member.leaving is None or member.child is None:
            return
        how, latest = member.leaving
        if member.ready is not None or time.monotonic() > latest:
            member.wanted, member.leaving = False, None
            self._signal(member.name, signal.SIGKILL if how == "kill" else signal.SIGTERM)

    def _flag(self, member: Member, arming: Arming) -> Path:
        return self._home / "flags" / f"{member.name}.{arming.turn}.{arming.place.stage}.{arming.place.point}"

    def _see_end(self, member: Member) -> None:
        if member.child is None or member.child.poll() is None:
            return
        code, lived = member.child.returncode, time.monotonic() - member.started
        assert code is not None
        member.child, member.stopped, member.ready = None, False, None
        place = self._struck(member)
        if code == -signal.SIGKILL:
            member.failures = 0
            member.due = time.monotonic() + AGAIN_S
        else:
            member.failures = 0 if lived > LONG_ENOUGH_S else member.failures + 1
            member.due = time.monotonic() + min(AGAIN_S * 2**member.failures, AGAIN_CAP_S)
        if member.wanted is False:
            member.due = float("inf")
        self._on_death(Death(member.name, code, lived, place))

    def _struck(self, member: Member) -> Place | None:
        """The place that its flag says has killed it."""
        arming, member.armed = member.armed, None
        if arming is None:
            return None
        if self._flag(member, arming).exists():
            self.hit.add(arming.place)
            self.hits[arming.place] += 1
            return arming.place
        if member.ordinal == 0:
            self._rotations[member.service.name].again(arming.place)
        return None

    def _remove_state(self, member: Member) -> None:
        for stage in STAGES.get(member.service.name, ()):
            shutil.rmtree(self._home / "state" / stage / str(member.ordinal), ignore_errors=True)

    def _signal(self, name: str, number: signal.Signals) -> bool:
        member = self.members.get(name)
        if member is None or member.child is None or member.child.poll() is not None:
            return False
        try:
            os.killpg(member.child.pid, number)
        except ProcessLookupError:  # it has ended just now
            return False
        return True


def _has_ended(member: Member, deadline: float) -> bool:
    """Whether its process has ended by then."""
    if member.child is not None:
        try:
            member.child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
    return True
