"""A process with one real stage on a real Kafka, for the scenarios: `python -m handrail_chaos.scenario_stage`.

Two stages can be chosen. `copy` copies each order and numbers it within its key by a row of its table. `action` is the
action service's own stage for billing under another name. The environment says which, and what goes wrong:

- `SCENARIO_STAGE` its name, `SCENARIO_KIND` copy or action, `SCENARIO_FOLDER` where `mended` may appear
- `SCENARIO_FAULT` `<point>:<n>:<what>`: at the n-th hit of a fault point, once: `kill` ends the process as by -9; `stop`
  stops it (SIGSTOP) until it is told to go on; `abort` raises Aborted, as a refused or unknown commit does; `wait-kill` waits
  for the file `go` first. The file `hit` says that it has happened.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from handrail.clock import SystemClock
from handrail.contracts import Contracts
from handrail.errors import Aborted, ConfigError, ContractBroken, Failure, Fenced
from handrail.flow import Flows
from handrail.kafka.admin import connect
from handrail.kafka.inspect import describe
from handrail.kafka.log import KafkaLog
from handrail.log import Fault, no_fault
from handrail.message import Due, Finished, GiveUp, Message, Output, Relay
from handrail.pending import View
from handrail.recovery import Policy
from handrail.service import FENCED, OK, Deployment, Ground, Plan, guard
from handrail.settings import Settings
from handrail.spec import Spec
from handrail.stage import Stage, private_topics
from handrail.tables import Identity, StateFolder
from handrail.telemetry import Telemetry

ORDER = "orders/order-accepted.v1"
COPY = "handrail/run-transition.v1"
FAILS, BROKEN = "fails", "broken"
"""Segments of orders that the copying stage can't handle before it is mended: to be tried again, or never."""

WINDOW_MS = 14 * 24 * 3_600_000
_SOON = {"from_ms": 200, "to_ms": 400, "times": 100}


def run(stop: threading.Event) -> int:
    """One stage until it is told to stop, or fenced."""
    name, kind, folder = os.environ["SCENARIO_STAGE"], os.environ["SCENARIO_KIND"], Path(os.environ["SCENARIO_FOLDER"])
    settings = Settings.from_env(os.environ)
    contracts = Contracts.load(settings.contracts)
    topics = describe(connect(settings.bootstrap, within_s=30))
    telemetry = Telemetry.from_env("scenario", {})
    ground = Ground("chaos", settings, contracts, topics, telemetry, WINDOW_MS)
    plan = _action(ground, name) if kind == "action" else Plan(_copying(ground, name, folder / "mended"))
    fault = scripted(os.environ.get("SCENARIO_FAULT", ""), folder)
    state = StateFolder(settings.home, name, settings.ordinal)
    ids = {topic: topics[topic].id for topic in private_topics(name)}
    partitions = ground.partitions(plan.spec.inbox)
    try:
        log = KafkaLog(settings.bootstrap, name, settings.ordinal, plan.spec.inbox, fault)
        stage = Stage(
            plan.spec,
            log,
            contracts,
            folder=state.partition,
            identity=lambda partition: Identity(name, partition, partitions, ids),
            clock=SystemClock(),
            telemetry=telemetry,
            jitter=random.random,
            worker=plan.worker() if plan.worker else None,
            fault=fault,
        )
        while not stop.is_set():
            stage.step()
        stage.close()
    except Fenced:
        return FENCED
    state.close()
    return OK


def scripted(text: str, folder: Path) -> Fault:
    """The fault hook; see above. Raises ConfigError for a script that it does not know."""
    if not text:
        return no_fault
    point, nth, what = text.split(":")
    hit, go, left = folder / "hit", folder / "go", int(nth)
    deeds: dict[str, Callable[[], None]] = {
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
        "abort": _abort,
        "wait-kill": lambda: _wait_and_die(go),
    }
    if what not in deeds:
        raise ConfigError(f"SCENARIO_FAULT: no fault {what!r}; there are {', '.join(deeds)}")

    def fault(at: str) -> None:
        nonlocal left
        if at != point or left <= 0 or hit.exists():
            return
        left -= 1
        if left == 0:
            hit.write_text(text)
            deeds[what]()

    return fault


def _abort() -> None:
    raise Aborted("scripted: nobody knows how this commit ended")


def _wait_and_die(go: Path) -> None:
    while not go.exists():
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)


def _copying(ground: Ground, name: str, mended: Path) -> Spec:
    def copy(given: Message | Due | Finished, view: View) -> Iterable[Output]:
        if not isinstance(given, Message):
            raise TypeError(f"the copying stage sets no timers, yet {type(given).__name__} came")
        segment = given.body["segment"]
        if segment == FAILS and not mended.exists():
            raise Failure("transient", "not yet")
        if segment == BROKEN and not mended.exists():
            raise ContractBroken("it is broken until it is mended", field="segment")
        before = view.get("counts", given.key)
        row = _numbered(given, (before["sequence"] if before else 0) + 1)
        view.put("counts", given.key, row)
        yield Output(f"{name}.out", COPY, given.key, body=row)

    return Spec(
        name=name,
        inbox=f"{name}.in",
        accepts=frozenset({ORDER}),
        handler=copy,
        partitions=ground.partitions,
        knows=lambda _flow, _version: True,
        tables={"counts": COPY},
        policy=Policy.from_config({"transient": _SOON}),
        dead_letters=f"{name}.letters",
        batch=25,  # so that a fault comes in the middle
        window_ms=WINDOW_MS,
    )


def _numbered(given: Message, number: int) -> dict[str, Any]:
    """A transition of the key's own run: its sequence shows what the table held."""
    dedupe = {"order_id": str(given.body["order_id"]), "revision": str(given.body["revision"])}
    return {
        "run": given.key,
        "flow": "scenario",
        "version": 1,
        "route": given.key,
        "sequence": number,
        "previous": None,
        "state": "done",
        "event": "copied",
        "step": None,
        "failure_class": None,
        "reason": None,
        "attempts": 0,
        "actor": None,
        "dedupe": dedupe,
        "task": None,
        "trace": None,
        "first_failure_at": None,
        "at": given.time,
    }


def _action(ground: Ground, name: str) -> Plan:
    """The real stage, with topics of its own; only the name of the topic of its outcomes is another."""
    from handrail_action.bootstrap import plans  # only here: copying needs no service

    settings, contracts = ground.settings, ground.contracts
    flows = Flows.load(settings.flows, settings.systems, contracts)
    (plan,) = plans(Deployment("action", settings, contracts, ground.topics, ground.telemetry, ground.window_ms, flows))

    def elsewhere(given: Message | Due | Finished, view: View) -> Iterable[Output | Relay | GiveUp]:
        for output in plan.spec.handler(given, view):
            yield replace(output, topic=f"{name}.out") if isinstance(output, Output) else output

    spec = replace(
        plan.spec,
        name=name,
        inbox=f"{name}.in",
        dead_letters=f"{name}.letters",
        handler=elsewhere,
        window_ms=WINDOW_MS,
    )
    return replace(plan, spec=spec)


if __name__ == "__main__":
    guard("scenario", run)
