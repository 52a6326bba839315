"""A real Kafka of one broker or of three, with a second door for the services: one that goes through Toxiproxy."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from handrail.errors import HandrailError
from handrail.kafka.admin import connect
from handrail.kafka.provision import load_topology, provision
from handrail.local.kafka import LocalKafka, new_cluster_id
from handrail.local.ports import LOOPBACK
from handrail.settings import Settings

from handrail_chaos.errors import ChaosError
from handrail_chaos.toxiproxy import Toxiproxy

_READY_S = 90.0
_STABILIZED = re.compile(rb"Stabilized group (\S+) generation (\d+)")


def replicated(brokers: int) -> dict[str, int | str]:
    """What a broker is told so that all is kept as often as there are brokers, and acknowledged by all but one."""
    if brokers == 1:
        return {}
    enough = brokers - 1
    return {
        "default.replication.factor": brokers,
        "min.insync.replicas": enough,
        "offsets.topic.replication.factor": brokers,
        "transaction.state.log.replication.factor": brokers,
        "transaction.state.log.min.isr": enough,
        "share.coordinator.state.topic.replication.factor": brokers,
        "share.coordinator.state.topic.min.isr": enough,
        "replica.lag.time.max.ms": 5_000,
        # A follower asks again as soon as there is a byte, and each time for all partitions: most of what brokers did.
        "replica.fetch.min.bytes": 65_536,
        "replica.fetch.wait.max.ms": 100,
        "controller.quorum.election.timeout.ms": 500,
        "controller.quorum.fetch.timeout.ms": 1_000,
        "unclean.leader.election.enable": "false",
    }


_SHORT_LIVED = ("-XX:TieredStopAtLevel=1",)
"""Killed every few minutes, a broker spent a third of its time on compiling what it did not live to use."""


class Broker:
    """One node: `direct` is our own port, `behind` the one that Toxiproxy forwards `door` to."""

    def __init__(self, number: int, kafka: LocalKafka, behind: int, door: int) -> None:
        self.number, self.kafka, self.behind, self.door = number, kafka, behind, door
        self.wanted = True
        self.stopped = False

    @property
    def name(self) -> str:
        return f"kafka-{self.number}"


class Cluster:
    """All brokers. `direct` is the bootstrap for us, `proxied` the one for services (the same without Toxiproxy)."""

    def __init__(self, folder: Path, count: int, ports: Iterator[int], toxiproxy: Toxiproxy | None) -> None:
        cluster = new_cluster_id()
        direct = [next(ports) for _ in range(count)]
        behind = [next(ports) for _ in range(count)]
        doors = [next(ports) for _ in range(count)] if toxiproxy else behind
        controllers = [next(ports) for _ in range(count)]
        voters = ",".join(f"{n}@{LOOPBACK}:{port}" for n, port in enumerate(controllers, 1))
        self.brokers: list[Broker] = []
        for number in range(1, count + 1):
            at = number - 1
            settings = {
                **replicated(count),
                "node.id": number,
                "controller.quorum.voters": voters,
                "listeners": f"PLAINTEXT://{LOOPBACK}:{direct[at]},PROXIED://{LOOPBACK}:{behind[at]},"
                f"CONTROLLER://{LOOPBACK}:{controllers[at]}",
                "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{direct[at]},PROXIED://{LOOPBACK}:{doors[at]}",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
            }
            kafka = LocalKafka(
                folder / f"kafka-{number}", direct[at], settings=settings, cluster=cluster, java_options=_SHORT_LIVED
            )
            self.brokers.append(Broker(number, kafka, behind[at], doors[at]))
            if toxiproxy:
                toxiproxy.proxy(f"kafka-{number}", doors[at], behind[at])
        self.direct = ",".join(f"{LOOPBACK}:{port}" for port in direct)
        self.proxied = ",".join(f"{LOOPBACK}:{port}" for port in doors)
        self.generations = Generations(broker.kafka.log_file for broker in self.brokers)

    def start(self, env: Mapping[str, str]) -> None:
        """Start every broker, wait until all are there, and make the topics. Raises HandrailError."""
        for broker in self.brokers:
            broker.kafka.launch()
        self.wait_whole()
        topology = load_topology(Settings.from_env(env))
        provision(self.direct, replace(topology, replication=len(self.brokers)))

    def wait_whole(self) -> None:
        """Until every broker is a member. Raises ChaosError when one has ended or does not come."""
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            for broker in self.brokers:
                if not broker.kafka.alive:
                    raise ChaosError(f"{broker.name} has ended: {broker.kafka.trouble()} ({broker.kafka.log_file})")
            try:
                if len(connect(self.direct, 2.0).list_topics(timeout=2.0).brokers) == len(self.brokers):
                    return
            except Exception as error:
                if not isinstance(error, HandrailError) and type(error).__name__ != "KafkaException":
                    raise
            time.sleep(0.1)
        raise ChaosError(
            f"not every broker was there after {_READY_S:.0f} s; their logs are in {self.brokers[0].kafka.folder}"
        )

    def kill(self, broker: Broker) -> None:
        """As a crash would; it stays away until `revive`."""
        broker.wanted = False
        self.generations.read()
        broker.kafka.kill()
        broker.stopped = False

    def revive(self, broker: Broker) -> None:
        """Start it again, without waiting."""
        if not broker.kafka.alive:
            self.generations.read()
            self.generations.begin_anew(broker.kafka.log_file)
            broker.kafka.launch()
        broker.wanted = True

    def freeze(self, broker: Broker, frozen: bool) -> None:
        """SIGSTOP or SIGCONT."""
        pid = broker.kafka.pid
        if pid is not None:
            os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)
            broker.stopped = frozen

    def ended(self) -> list[Broker]:
        """Brokers that have ended though nobody has killed them."""
        return [broker for broker in self.brokers if broker.wanted and not broker.kafka.alive]

    def heal(self) -> None:
        """All of them run."""
        for broker in self.brokers:
            self.freeze(broker, False)
            self.revive(broker)

    def stop(self) -> None:
        """End all; a frozen one too."""
        for broker in self.brokers:
            if broker.stopped:
                self.freeze(broker, False)
        for broker in self.brokers:
            broker.kafka.stop(5.0 if len(self.brokers) == 1 else 0.5)


class Generations:
    """Counts the rebalances of every group by what the brokers' logs say: `Stabilized group … generation …`."""

    def __init__(self, files: Iterator[Path]) -> None:
        self._places: dict[Path, int] = dict.fromkeys(files, 0)
        self._seen: set[tuple[bytes, int]] = set()

    def begin_anew(self, file: Path) -> None:
        """The file is put aside and another begun."""
        self._places[file] = 0

    def read(self) -> None:
        """Take in what was written since the last time."""
        for file, place in self._places.items():
            try:
                with file.open("rb") as log:
                    if log.seek(0, os.SEEK_END) < place:
                        place = 0
                    log.seek(place)
                    text = log.read()
            except OSError:
                continue
            whole = text.rfind(b"\n") + 1
            self._places[file] = place + whole
            for group, generation in _STABILIZED.findall(text[:whole]):
                self._seen.add((group, int(generation)))

    def count(self) -> int:
        """Generations after each group's first."""
        self.read()
        return len(self._seen) - len({group for group, _ in self._seen})

    def by_group(self) -> dict[str, int]:
        """The same for each group."""
        found: dict[str, int] = {}
        for group, _ in self._seen:
            name = group.decode(errors="replace")
            found[name] = found.get(name, -1) + 1
        return dict(sorted(found.items()))
