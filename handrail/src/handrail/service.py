"""Runs a service: each of its stages in a thread of its own, under a watchdog, until SIGTERM.

Exit codes: 0 stopped cleanly, 1 failed, 2 a file or setting is wrong, 3 fenced by another process, 70 the watchdog ended it.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import FrameType

import structlog

from handrail import faults, logs
from handrail.clock import SystemClock
from handrail.contracts import Contracts
from handrail.errors import ConfigError, Fenced, Unreachable
from handrail.flow import Flows
from handrail.health import listening
from handrail.kafka.admin import connect
from handrail.kafka.inspect import TopicInfo, describe, require_consistent
from handrail.kafka.log import KafkaLog
from handrail.kafka.reporting import reporting
from handrail.kafka.settings import RESTORE_DEADLINE_S, TRANSACTION_TIMEOUT_S
from handrail.kafka.topics_file import TopicsFile
from handrail.metrics import StageMetrics
from handrail.process_stats import TOPIC as STATS
from handrail.settings import Settings
from handrail.spec import Spec, Worker
from handrail.stage import Stage, private_topics
from handrail.tables import Identity, StateFolder
from handrail.telemetry import Telemetry
from handrail.vitals import Vitals

OK, FAILED, MISCONFIGURED, FENCED, HUNG = 0, 1, 2, 3, 70
_END_S = 2.0 * TRANSACTION_TIMEOUT_S
_SLOW_PHASES = {"new": RESTORE_DEADLINE_S, "restore": RESTORE_DEADLINE_S * 1.5, "rewind": RESTORE_DEADLINE_S * 1.5}


@dataclass(frozen=True, slots=True)
class Ground:
    """What stages stand on: settings, contracts, and the topics that there are. Duplicates are known for `window_ms`."""

    service: str
    settings: Settings
    contracts: Contracts
    topics: Mapping[str, TopicInfo]
    telemetry: Telemetry
    window_ms: int

    def partitions(self, topic: str) -> int:
        """Partition count of a topic. Raises ConfigError when it does not exist: services create nothing."""
        if topic not in self.topics:
            raise ConfigError(f"there is no topic {topic}; run `handrail topics provision`")
        return self.topics[topic].partitions


@dataclass(frozen=True, slots=True)
class Deployment(Ground):
    """What a service's bootstrap builds its stages from."""

    flows: Flows


@dataclass(frozen=True, slots=True)
class Plan:
    """One stage to run.

    `worker` makes what it needs outside of transactions, in its thread. `contracts` are its own where those of the
    deployment take too small messages.
    """

    spec: Spec
    worker: Callable[[], Worker] | None = None
    contracts: Contracts | None = None


def main(service: str, build: Callable[[Deployment], Sequence[Plan]]) -> None:
    """Run a service until it is told to stop; never returns."""

    def run(stop: threading.Event) -> int:
        settings = Settings.from_env(os.environ)
        contracts = Contracts.load(settings.contracts)
        flows = Flows.load(settings.flows, settings.systems, contracts)
        topics = describe(connect(settings.bootstrap, within_s=30))
        telemetry = Telemetry.from_env(service, os.environ)
        window_ms = TopicsFile.load(settings.topics).dedupe_window_ms
        deployment = Deployment(service, settings, contracts, topics, telemetry, window_ms, flows)
        return host(build(deployment), deployment, stop)

    guard(service, run)


def guard(service: str, run: Callable[[threading.Event], int]) -> None:
    """Run until SIGTERM or SIGINT set the event, and end the process with the exit code; never returns."""
    logs.configure(service)
    logger = structlog.get_logger()
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    try:
        code = run(stop)
    except ConfigError as error:
        logger.error("misconfigured", why=str(error))
        code = MISCONFIGURED
    except Unreachable as error:
        logger.error("unreachable", why=str(error))
        code = FAILED
    logger.info("ended", code=code)
    sys.stdout.flush()
    os._exit(code)  # client threads of a fenced or hung stage must not hold up the end


def host(plans: Sequence[Plan], ground: Ground, stop: threading.Event) -> int:
    """Run stages until told to stop or one of them ends; the exit code."""
    runners: list[_Runner] = []

    def vitals() -> list[Vitals]:
        return [runner.vitals() for runner in runners]

    metrics = StageMetrics(ground.service, vitals)
    runners += [_Runner(plan, ground, metrics, stop) for plan in plans]
    for runner in runners:
        spec = runner.plan.spec
        require_consistent(ground.topics, spec.inbox, private_topics(spec.name))
    settings = ground.settings
    told = STATS in ground.topics  # a deployment of a few stages alone may be without it
    with (
        listening(settings.http, vitals, metrics.registry),
        reporting(settings.bootstrap, ground.contracts, ground.service, vitals) if told else nullcontext(),
    ):
        for runner in runners:
            runner.thread.start()
        code = _watch(runners, stop)
    ground.telemetry.shutdown()
    return code


def _watch(runners: Sequence[_Runner], stop: threading.Event) -> int:
    """Until told to stop or a stage ends; a stage that hangs ends the process (librdkafka#5456, #5511)."""
    while not stop.wait(0.2):
        for runner in runners:
            if not runner.thread.is_alive():
                stop.set()
            elif runner.hung():
                structlog.get_logger().error("hung", stage=runner.plan.spec.name, phase=runner.phase())
                faulthandler.dump_traceback(all_threads=True)
                os._exit(HUNG)
    deadline = time.monotonic() + _END_S
    for runner in runners:
        runner.thread.join(max(0.0, deadline - time.monotonic()))
    return max(runner.code for runner in runners)


class _Runner:
    """One stage and its thread. Everything of Kafka is made, used and closed in that thread."""

    def __init__(self, plan: Plan, ground: Ground, metrics: StageMetrics, stop: threading.Event) -> None:
        self.plan = plan
        self._metrics = metrics
        self.code = OK
        self.thread = threading.Thread(target=self._guarded, name=plan.spec.name, daemon=True)
        self._ground = ground
        self._stop = stop
        self._stage: Stage | None = None
        self._started = time.monotonic()

    def phase(self) -> str:
        return self._stage.phase if self._stage else "new"

    def vitals(self) -> Vitals:
        return self._stage.vitals if self._stage else Vitals(self.plan.spec.name)

    def hung(self) -> bool:
        since = self._stage.phase_since if self._stage else self._started
        return time.monotonic() - since > _SLOW_PHASES.get(self.phase(), self._ground.settings.phase_limit_s)

    def _guarded(self) -> None:
        logger = structlog.get_logger().bind(stage=self.plan.spec.name)
        try:
            self._loop()
        except Fenced as error:
            logger.error("fenced", why=str(error))
            self.code = FENCED
        except ConfigError as error:
            logger.error("misconfigured", why=str(error))
            self.code = MISCONFIGURED
        except Unreachable as error:
            logger.error("unreachable", why=str(error))
            self.code = FAILED
        except BaseException:
            logger.exception("crashed")
            self.code = FAILED

    def _loop(self) -> None:
        settings = self._ground.settings
        counts = STATS if STATS in self._ground.topics else None
        spec = replace(self.plan.spec, window_ms=self._ground.window_ms, counts=counts)
        folder = StateFolder(settings.home, spec.name, settings.ordinal)
        ids = {topic: self._ground.topics[topic].id for topic in private_topics(spec.name)}
        partitions = self._ground.partitions(spec.inbox)
        fault = faults.from_env(os.environ, spec.name)
        log = KafkaLog(settings.bootstrap, spec.name, settings.ordinal, spec.inbox, fault)
        self._stage = stage = Stage(
            spec,
            log,
            self.plan.contracts or self._ground.contracts,
            folder=folder.partition,
            identity=lambda partition: Identity(spec.name, partition, partitions, ids),
            clock=SystemClock(),
            telemetry=self._ground.telemetry,
            jitter=random.random,
            worker=self.plan.worker() if self.plan.worker else None,
            fault=fault,
            metrics=self._metrics,
        )
        while not self._stop.is_set():
            stage.step()
        stage.close()
        folder.close()
