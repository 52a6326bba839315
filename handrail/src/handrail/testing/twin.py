"""A flow on the twin: the stages of real services, their real contracts and flows, on a broker in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from handrail.contracts import Contracts
from handrail.errors import ConfigError
from handrail.flow import Flows
from handrail.identity import partition_for
from handrail.kafka.inspect import TopicInfo
from handrail.kafka.provision import load_topology
from handrail.kafka.topics_file import TopicsFile
from handrail.service import Deployment, Plan
from handrail.settings import Settings
from handrail.spec import Worker
from handrail.telemetry import Telemetry
from handrail.testing.clock import ManualClock
from handrail.testing.driver import StageDriver
from handrail.testing.memory import MemoryBroker

_ROUNDS = 1_000


class Twin:
    """Services side by side, stepped in turn until nothing moves. `stages` has the driver of each stage by its name."""

    def __init__(
        self,
        root: Path,
        home: Path,
        services: Sequence[Callable[[Deployment], Sequence[Plan]]],
        workers: Mapping[str, Worker] | None = None,
        telemetry: Callable[[str], Telemetry] | None = None,
    ) -> None:
        """`root` holds contracts/, flows/, systems/ and deploy/; `home` is for the stages' tables.

        `services` are the `plans` of the services' bootstraps. Calls to outside systems are made by `workers` (stage ->
        Worker), never by the services' own. `telemetry` gives that of a stage by its name. Raises ConfigError where a file
        is wrong.
        """
        settings = replace(
            Settings.from_env({"HANDRAIL_HOME": str(home)}),
            contracts=root / "contracts",
            flows=root / "flows",
            systems=root / "systems",
            topics=root / "deploy" / "kafka" / "topics.yaml",
        )
        self.contracts = Contracts.load(settings.contracts)
        counts = {topic.name: topic.partitions for topic in load_topology(settings).topics}
        self.broker = MemoryBroker(partitions=counts)
        self.clock = ManualClock(self.broker.now)
        deployment = Deployment(
            "twin",
            settings,
            self.contracts,
            {name: TopicInfo(name, count) for name, count in counts.items()},
            Telemetry.from_env("twin", {}),
            TopicsFile.load(settings.topics).dedupe_window_ms,
            Flows.load(settings.flows, settings.systems, self.contracts),
        )
        self._plans = {plan.spec.name: plan for service in services for plan in service(deployment)}
        self._workers, self._home, self._lives = workers or {}, home, 0
        self._telemetry = telemetry or (lambda _stage: Telemetry())
        self.stages = {name: self._start(name) for name in self._plans}

    def _start(self, name: str) -> StageDriver:
        self._lives += 1
        plan = self._plans[name]
        if plan.worker is not None and name not in self._workers:
            raise ConfigError(f"{name} makes calls: give the twin a worker for it, workers={{{name!r}: ...}}")
        home, worker = self._home / str(self._lives), self._workers.get(name)
        contracts = plan.contracts or self.contracts
        return StageDriver(
            self.broker,
            plan.spec,
            contracts,
            home,
            worker=worker,
            clock=self.clock,
            outs=(),
            telemetry=self._telemetry(name),
        )

    def publish(self, contract: str, key: str, event: Mapping[str, Any]) -> None:
        """An event of the world, into the source topic of its contract, by that contract."""
        topic = "ingest." + contract.rpartition(".")[0].replace("/", ".")
        self.broker.publish(topic, key, self.contracts.encode(contract, event))

    def drain(self) -> None:
        """Step every stage until nothing is committed any more. Raises AssertionError if that does not end."""
        quiet = 0
        for _ in range(_ROUNDS):
            moved = [driver.stage.step() for driver in self.stages.values()]
            quiet = 0 if any(moved) else quiet + 1
            if quiet >= 3:
                return
        raise AssertionError(f"something still moves after {_ROUNDS} rounds")

    def advance(self, ms: int) -> None:
        """Let time pass, for retries and timers; `drain` afterwards."""
        self.clock.advance(ms)
        self.broker.advance(ms)

    def crash(self, stage: str) -> None:
        """Kill a stage and start it again on an empty disk: it must restore its tables from the broker."""
        self.stages[stage].crash()
        self.stages[stage] = self._start(stage)

    def bodies(self, topic: str, key: str | None = None) -> list[dict[str, Any]]:
        """What is committed in a topic, decoded; of one key, if given."""
        records = self.broker.records(topic)
        if key is not None:
            partition = partition_for(key, self.broker.partitions_of(topic))
            records = [each for each in records if each.partition == partition and each.key == key.encode()]
        return [dict(self.contracts.decode(each.value or b"")[1]) for each in records]

    def close(self) -> None:
        """Let go of the stages' files."""
        for driver in self.stages.values():
            driver.crash()
