"""One run, act by act: begin, the storm, the fault points that it has missed, heal, be quiet, gather, judge."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from handrail_chaos.checker import check
from handrail_chaos.evidence import Published
from handrail_chaos.fleet import Member
from handrail_chaos.gathering import gather
from handrail_chaos.report import Report
from handrail_chaos.rotation import STAGES, Arming, Place, places
from handrail_chaos.schedule import Ground, Plan, plan
from handrail_chaos.screen import Screen
from handrail_chaos.storm import Storm
from handrail_chaos.toxiproxy import NO_GO
from handrail_chaos.world import Asked, World

TICK_S = 0.05
AROUND_S = 85.0
"""What a short run needs beside its storm: to start, for the points that were missed, to heal, to judge."""
SHORTEST_STORM_S = 20.0
ROUND_S = 900.0
"""A long storm goes through all fault points once in this time."""
START_S = 1.5
"""About what a service needs to start on a busy machine."""
NEVER_READY_S = 60.0
RARE_S = 12.0
"""So long after it is ready, what a process is armed with has had its chance."""
STILL_S = 4.0
STUCK_S = 25.0
"""No position, run, letter or call has moved for so long: there is nothing to come. A retry waits 6 s at most, an intent
that was cut off by a crash 7.3 s, and a member that is gone keeps its partitions for 15 s."""
QUIET_WITHIN_S = 240.0
MISSED_WITHIN_S = 240.0
ENDS_WITHIN_S = 30.0


def storm_seconds(minutes: float) -> float:
    """How long the storm is in a run of about so many minutes."""
    return max(SHORTEST_STORM_S, minutes * 60 - AROUND_S)


def planned(asked: Asked, network: bool) -> Plan:
    """The storm of this run."""
    return plan(asked.seed, Ground(storm_seconds(asked.minutes), asked.brokers, network, asked.slice_s))


def lives(storm_s: float) -> dict[str, float]:
    """How long a process of each service is to live, so that each of its fault points has its turn."""
    rounds = max(1, round(storm_s / ROUND_S))
    return {
        service: max(1.0, 0.8 * storm_s / (len(places(stages)) * rounds) - START_S)
        for service, stages in STAGES.items()
    }


class Run:
    """Call `run` from a thread that lives as long as the processes that it starts."""

    def __init__(self, asked: Asked, screen: Screen) -> None:
        self._asked, self._screen = asked, screen
        self._storm_s = storm_seconds(asked.minutes)
        self._lives = lives(self._storm_s)
        self._seconds: dict[str, float] = {}
        self._notes: list[str] = []
        self._kills = 0
        self._ends: dict[str, float] = {}
        self._last = time.monotonic()

    def run(self) -> Report:
        """All of it. Raises HandrailError when it can't go on."""
        began = time.monotonic()
        self._screen.say(f"starting Kafka ({self._asked.brokers}), Toxiproxy, the sandbox and the services")
        self._world = World(self._asked, self._lives)
        try:
            if self._world.toxiproxy is None:
                self._note(NO_GO)
            storm = self._begin()
            self._took("start", began)
            self._blow(storm)
            self._catch_missed()
            published = self._heal(storm)
            return self._judge(storm, published, began)
        finally:
            self._world.close()

    # --- the acts

    def _begin(self) -> Storm:
        world = self._world
        world.begin()
        world.publisher.rate = self._asked.rate
        world.publisher.burst_s = self._asked.burst_s
        world.publisher.limit = self._asked.events or None
        if not self._wait(lambda: world.watcher.resting() > 0, 60.0):
            self._note("no run was finished within 60 s of the start")
        world.people.active.set()
        return Storm(world.fleet, world.cluster, world.toxiproxy, world.sandbox, world.stream)

    def _blow(self, storm: Storm) -> None:
        world, steps = self._world, list(planned(self._asked, self._world.toxiproxy is not None).steps)
        began = time.monotonic()
        world.fleet.armed = True
        self._screen.say(f"the storm: {self._storm_s:.0f} s, {len(steps)} steps, seed {self._asked.seed}")
        with self._screen.bar("storm", int(self._storm_s)) as bar:
            while (now := time.monotonic() - began) < self._storm_s and not self._all_sent():
                while steps and steps[0].at <= now:
                    step = steps.pop(0)
                    self._screen.note(str(step))
                    storm.do(step)
                storm.order()
                self._push_on()
                self._turn()
                bar(int(now), self._told())
        storm.calm()
        self._took("storm", began)

    def _push_on(self) -> None:
        """A process that is armed with something rare must not keep it for ever."""
        now = time.monotonic()
        for member in self._world.fleet.members.values():
            if member.armed is None or not member.alive or member.stopped:
                continue
            life = self._lives[member.service.name]
            if member.ready is None:
                if now - member.started > NEVER_READY_S:
                    self._world.fleet.kill(member.name)
            elif member.armed.place.point == "in-revoke":
                if now - member.ready > min(life / 2, RARE_S / 2) and member.name not in self._ends:
                    self._ends[member.name] = now
                    self._world.fleet.end(member.name)  # letting its partitions go, it comes by the point
            elif now - member.ready > max(RARE_S, 4 * life):
                self._world.fleet.kill(member.name)
        self._ends = {name: at for name, at in self._ends.items() if now - at < 5.0}

    def _catch_missed(self) -> None:
        """The fault points that the storm has not hit, one after the other in each service, all services at once."""
        fleet, began = self._world.fleet, time.monotonic()
        fleet.armed = False
        self._world.publisher.limit = None  # a point that nothing passes is never hit
        self._world.people.eager.set()
        everything = [place for stages in STAGES.values() for place in places(stages)]
        missing = fleet.missing(everything)
        if missing:
            self._screen.say(f"{len(missing)} of {len(everything)} fault points were not hit yet: {_list(missing)}")
        turn = 1_000_000
        with self._screen.bar("missed", len(missing)) as bar:
            while (left := fleet.missing(everything)) and time.monotonic() - began < MISSED_WITHIN_S:
                for service, stages in STAGES.items():
                    member = fleet.members[f"{service}-0"]
                    mine = [place for place in left if place.stage in stages]
                    if mine and (member.armed is None or member.armed.turn < 1_000_000 or not self._is_fresh(member)):
                        turn += 1
                        # Of those that can't be hit now, each has its turn.
                        fleet.arm(member.name, Arming(mine[turn % len(mine)], 1, turn))
                self._push_on()
                self._turn()
                bar(len(missing) - len(left), self._told())
        self._world.people.eager.clear()
        self._took("missed", began)

    def _heal(self, storm: Storm) -> list[Published]:
        """Everything is mended; wait until nothing moves any more. What was sent."""
        world, began = self._world, time.monotonic()
        storm.heal()
        world.publisher.rate = 0.0
        self._screen.say("healed; now all that is under way must come to its end")
        for member in list(world.fleet.members.values()):
            if member.armed is not None:
                world.fleet.kill(member.name)  # what it is armed with must not strike any more
        self._wait(lambda: not world.cluster.ended(), 30.0)
        world.cluster.wait_whole()
        published = world.publisher.finish()
        storm.order()
        if not self._wait_quiet():
            self._note(f"not quiet: {self._told()}")
        world.people.finish()
        self._took("heal", began)
        return published

    def _wait_quiet(self) -> bool:
        """Whether everything came to rest in time."""
        world, until = self._world, time.monotonic() + QUIET_WITHIN_S + self._storm_s / 10
        with self._screen.bar("under way", max(1, world.watcher.moving())) as bar:
            most = max(1, world.watcher.moving())
            while time.monotonic() < until:
                self._turn()
                moving = world.watcher.moving()
                bar(most - min(most, moving), self._told())
                still = min(world.watcher.still_s(), world.flow.still_s())
                if (
                    still > STILL_S
                    and moving == 0
                    and not world.people.open_tasks()
                    and not world.people.open_letters()
                ):
                    return True
                if still > STUCK_S:
                    return moving == 0
        return False

    def _judge(self, storm: Storm, published: list[Published], began: float) -> Report:
        world, at = self._world, time.monotonic()
        struck = self._seen()
        for name in world.fleet.stop(ENDS_WITHIN_S):
            self._note(f"{name} did not end within {ENDS_WITHIN_S:.0f} s and was killed")
        world.flow.finish()
        world.watcher.__exit__()
        rebalances, hit = world.cluster.generations.count(), world.fleet.hit
        self._screen.say("gathering the evidence")
        evidence = gather(
            world.cluster.direct, published, world.stages, world.plain, books=self._asked.home / "sandbox.sqlite"
        )
        verdict = check(evidence)
        everything = [place for stages in STAGES.values() for place in places(stages)]
        names = {one.name for one in published}
        self._took("judge", at)
        self._took("all", began)
        return Report(
            seed=self._asked.seed,
            events=len(names),
            acked=len({one.name for one in published if one.acknowledged}),
            records=len(published),
            kills=self._kills + world.kills(),
            rebalances=rebalances,
            hit=len(everything) - len(world.fleet.missing(everything)),
            places=len(everything),
            missed=tuple(str(place) for place in everything if place not in hit),
            verdict=verdict,
            faults=dict(sorted((storm.done + Counter({"fault-point": sum(world.fleet.hits.values())})).items())),
            struck=struck,
            exits=dict(sorted(world.exits.items())),
            seconds=self._seconds,
            notes=tuple(self._notes),
        )

    # --- small things

    def _is_fresh(self, member: Member) -> bool:
        """Whether what it is armed with may still strike."""
        return member.alive and (member.ready is None or time.monotonic() - member.ready < RARE_S)

    def _turn(self) -> None:
        world = self._world
        world.fleet.tick()
        for broker in world.cluster.ended():
            self._note(f"{broker.name} has ended by itself: {broker.kafka.trouble()}")
            world.cluster.revive(broker)
        now = time.monotonic()
        if now - self._last > 5.0:
            self._last = now
            world.cluster.generations.read()
        time.sleep(TICK_S)

    def _wait(self, condition: Callable[[], bool], within_s: float) -> bool:
        until = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > until:
                return False
            self._turn()
        return True

    def _all_sent(self) -> bool:
        return 0 < self._asked.events <= self._world.publisher.sent

    def _seen(self) -> dict[str, int]:
        """What was seen of the faults: at billing, of people, of groups."""
        world = self._world
        billing: Mapping[str, int] = world.sandbox.summary()["systems"].get("billing", {}).get("faults", {})
        return {
            **{f"billing {kind}": count for kind, count in sorted(billing.items())},
            **{f"people {kind}": count for kind, count in sorted(world.people.given.items())},
            **{
                f"rebalances of {group}": count
                for group, count in world.cluster.generations.by_group().items()
                if count
            },
            **{f"hits of {place}": count for place, count in sorted(world.fleet.hits.items())},
        }

    def _told(self) -> str:
        world = self._world
        states = "  ".join(f"{name} {count}" for name, count in sorted(world.watcher.states().items()) if count)
        return (
            f"sent {world.publisher.sent}  kills {world.kills()}  points {len(world.fleet.hit)}  "
            f"behind {world.flow.total()}  {states}"
        )

    def _note(self, text: str) -> None:
        self._notes.append(text)
        self._screen.say(text)

    def _took(self, what: str, since: float) -> None:
        self._seconds[what] = round(time.monotonic() - since, 1)


def _list(missing: list[Place]) -> str:
    shown = ", ".join(map(str, missing[:6]))
    return shown if len(missing) <= 6 else f"{shown}, …"
