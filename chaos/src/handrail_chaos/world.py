"""Everything that runs: Kafka, Toxiproxy, the sandbox, all services, the publisher, and those who watch."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from handrail.kafka.publishing import require_topic
from handrail.local.ports import LOOPBACK
from handrail.local.services import SANDBOX, SERVICES
from handrail_demo.breaks import patched_copy
from handrail_demo.demo import Plan as DemoPlan
from handrail_demo.plain import PlainContracts
from handrail_demo.watching import Watcher
from handrail_sandbox.client import SandboxControl

from handrail_chaos import toxiproxy as toxi
from handrail_chaos.cluster import Cluster
from handrail_chaos.fleet import Death, Fleet
from handrail_chaos.flow import Flow
from handrail_chaos.gathering import deployment
from handrail_chaos.nursery import Nursery
from handrail_chaos.people import People
from handrail_chaos.ports import steady_ports
from handrail_chaos.publishing import TOPIC, Publisher
from handrail_chaos.rotation import FLOW, STAGES, Rotation
from handrail_chaos.schedule import SLICE_S
from handrail_chaos.stream import Stream
from handrail_chaos.toxiproxy import Toxiproxy

RATE = 60.0
"""Records a second, unless something else is asked for."""
FULL = 4_000
"""So many records behind, all stages together, and nothing more is published for the moment."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for. `minutes` is about how long all takes."""

    project: Path
    home: Path
    seed: int
    minutes: float = 4.0
    brokers: int = 1
    events: int = 0
    rate: float = RATE
    burst_s: float = 0.0
    calls: int = 0
    slice_s: float = SLICE_S
    mutant: Path | None = None


class World:
    """Made and used by one thread that lives as long. `close` ends all of it."""

    def __init__(self, asked: Asked, lives: Mapping[str, float]) -> None:
        """Starts Kafka and makes the topics. `lives`: how long a process of each service is to live, in seconds."""
        self.asked = asked
        self.deaths: list[Death] = []
        self.exits: Counter[str] = Counter()
        _empty(asked.home)
        path = patched_copy(asked.mutant, asked.project, asked.home / "broken") if asked.mutant else []
        ports = steady_ports()
        program = toxi.built()
        self.toxiproxy = Toxiproxy(program, next(ports), asked.home / "toxiproxy.log") if program else None
        sandbox, sandbox_door = next(ports), next(ports)
        if self.toxiproxy:
            self.toxiproxy.proxy("sandbox", sandbox_door, sandbox)
        self.cluster = Cluster(asked.home, asked.brokers, ports, self.toxiproxy)
        self.env = self._environment(sandbox, sandbox_door if self.toxiproxy else sandbox, path)
        self.cluster.start(self.env)
        self._nursery = Nursery(
            [one.module for one in SERVICES if one.name in STAGES], self.env, asked.home / "nursery.log"
        )
        self.sandbox = SandboxControl(f"http://{LOOPBACK}:{sandbox}")
        rotations = {name: Rotation(name, asked.seed, lives[name]) for name in STAGES}
        self.fleet = Fleet(
            asked.home,
            self.env,
            {one.name: (one, {}) for one in (SANDBOX, *SERVICES) if not one.web},
            rotations,
            self._on_death,
            self._nursery,
        )
        self.plain = PlainContracts(asked.project / "contracts")
        self.stream = Stream(asked.seed, self.plain.encode)
        self.stages = deployment(FLOW, TOPIC, ["billing"])
        self.flow = Flow(self.cluster.direct, {stage.name: stage.inbox for stage in self.stages})
        self.watcher = Watcher(self.cluster.direct, self.plain)
        partitions = require_topic(self.cluster.direct, TOPIC)
        self.publisher = Publisher(
            self.cluster.direct,
            self.stream,
            partitions,
            asked.home / "published.jsonl",
            lambda: self.flow.total() < FULL,
        )
        self.people = People(
            self.cluster.direct,
            asked.project / "contracts",
            f"{self.sandbox.url}/billing",
            max(1.5, asked.minutes / 12),
        )

    def begin(self) -> None:
        """Start the services and the threads that watch; publishing begins with the first rate."""
        self.fleet.tick()
        self.flow.start()
        self.watcher.__enter__()
        self.people.start()
        self.publisher.start()

    def close(self) -> None:
        """End Kafka and Toxiproxy, and whatever of the services is still there."""
        self.fleet.stop(1.0)
        self._nursery.stop()
        self.cluster.stop()
        if self.toxiproxy:
            self.toxiproxy.stop()

    def kills(self) -> int:
        """Ends by SIGKILL that were seen, of services and of the sandbox."""
        return sum(death.code == -9 for death in self.deaths)

    def _on_death(self, death: Death) -> None:
        self.deaths.append(death)
        self.exits[f"{death.name}: {death.code}"] += 1

    def _systems(self) -> dict[str, str]:
        """Where the systems are described: in a copy, if another number of calls was asked for than they have."""
        if not self.asked.calls:
            return {}
        folder = self.asked.home / "systems"
        folder.mkdir(exist_ok=True)
        for file in (self.asked.project / "systems").glob("*.yaml"):
            system = yaml.safe_load(file.read_text(encoding="utf-8"))
            system["limits"] = {**system.get("limits", {}), "concurrency": self.asked.calls}
            (folder / file.name).write_text(yaml.safe_dump(system), encoding="utf-8")
        return {"HANDRAIL_SYSTEMS": str(folder)}

    def _environment(self, sandbox: int, door: int, path: Sequence[Path]) -> dict[str, str]:
        demo = DemoPlan(self.asked.project, self.asked.home, 0, sandbox)
        paths = [*map(str, path), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HANDRAIL_", "OTEL_"))},
            **demo.env(),
            **self._systems(),
            "HANDRAIL_BOOTSTRAP": self.cluster.proxied,
            "HANDRAIL_SANDBOX_URL": f"http://{LOOPBACK}:{door}",
            **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {}),
        }


def _empty(home: Path) -> None:
    """Away with what an earlier run has left."""
    home.mkdir(parents=True, exist_ok=True)
    for name in ("state", "flags", "logs", "broken"):
        shutil.rmtree(home / name, ignore_errors=True)
    for found in (*home.glob("kafka-*"), *home.glob("*.sqlite*"), *home.glob("*.log"), *home.glob("*.json*")):
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink()
