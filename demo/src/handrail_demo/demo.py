"""The demo's acts, in order: publish, break things, kill services, mend, replay, and compare with the books."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handrail.contracts import Contracts
from handrail.identity import partition_for
from handrail.kafka.publishing import Acknowledged, publish_records, publisher, require_topic
from handrail.local.jaeger import Jaeger
from handrail.local.services import SANDBOX, SERVICES
from handrail.local.supervisor import Stack
from handrail.settings import Settings
from handrail_sandbox.books import Books
from handrail_sandbox.client import SandboxControl

from handrail_demo.accounting import Accounts, account
from handrail_demo.breaks import broken_copy
from handrail_demo.errors import DemoError
from handrail_demo.evidence import expected_runs, newest_letters, newest_runs
from handrail_demo.inflight import Inbox, kill_in_flight
from handrail_demo.manifest import Entry, Manifest, read_manifest
from handrail_demo.orders import CONTRACT, accepted_orders, generated
from handrail_demo.people import People
from handrail_demo.plain import PlainContracts, read_topic
from handrail_demo.screen import Screen
from handrail_demo.watching import Watcher
from handrail_demo.workload import Publication, Recipe, workload

TOPIC = "ingest.orders.order-accepted"
FLOW = "order-to-invoice"
RATE = 250.0
STUCK_S = 30.0
"""No news for longer than this means that there is none to come: a retry waits 6 s at most (5 s and a fifth), a call 2 s,
an intent that was cut off by a crash is asked about after 7.3 s, and a killed service is back in its group after 15 s."""
KILLS: Sequence[tuple[float, str, Inbox]] = (
    (0.25, "ingest", Inbox(f"{FLOW}.{TOPIC}", TOPIC)),
    (0.50, "decision", Inbox(f"{FLOW}.decision", f"{FLOW}.decision")),
    (0.75, "action", Inbox("action.billing", "action.billing", "action.billing.state")),
)
"""At which share of the publications which service is killed."""

FAULTS: Sequence[Mapping[str, Any]] = (
    {"kind": "503", "share": 0.04, "seed": 1},
    {"kind": "500", "share": 0.03, "seed": 2},
    {"kind": "429", "share": 0.03, "seed": 3, "retry_after_s": 1},
    {"kind": "apply-then-lose-reply", "share": 0.02, "seed": 4},
    {"kind": "success-but-nothing", "share": 0.01, "seed": 5, "sticky": "reference"},
)
"""Billing's bad day: 10 % transient errors, 2 % lost replies, 1 % that claims success until it is mended."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `patch` names a deliberately broken build; to a `jaeger` every service sends its spans.

    The `page` is for somebody who looks around afterwards; without it two demos at once have no port in common.
    """

    project: Path
    home: Path
    port: int
    sandbox_port: int
    orders: int = 3_000
    recipe: Recipe = field(default_factory=Recipe)
    patch: str | None = None
    jaeger: Jaeger | None = None
    page: bool = False

    def env(self) -> dict[str, str]:
        """The environment of every process of the demo."""
        return {
            "HANDRAIL_HOME": str(self.home),
            "HANDRAIL_BOOTSTRAP": f"127.0.0.1:{self.port}",
            "HANDRAIL_CONTRACTS": str(self.project / "contracts"),
            "HANDRAIL_FLOWS": str(self.project / "flows"),
            "HANDRAIL_SYSTEMS": str(self.project / "systems"),
            "HANDRAIL_TOPICS": str(self.project / "deploy" / "kafka" / "topics.yaml"),
            "HANDRAIL_LEDGER": str(self.home / "ledger.sqlite"),
            "HANDRAIL_SANDBOX_PORT": str(self.sandbox_port),
            "HANDRAIL_SANDBOX_DB": str(self.home / "sandbox.sqlite"),
            "HANDRAIL_SANDBOX_URL": f"http://127.0.0.1:{self.sandbox_port}",
        }


class Demo:
    """One run of the demo on a stack of its own."""

    def __init__(self, plan: Plan, environment: Mapping[str, str], screen: Screen) -> None:
        self._plan, self._screen = plan, screen
        self._env = {**environment, **plan.env()}
        self._settings = Settings.from_env(self._env)
        self._contracts = Contracts.load(self._settings.contracts)
        self._plain = PlainContracts(self._settings.contracts)
        self._manifest = plan.home / "manifest.jsonl"
        self._acknowledged = 0
        for name in ("state", "kafka", "manifest.jsonl", "ledger.sqlite", "sandbox.sqlite"):
            _remove(plan.home / name)

    def stack(self) -> Stack:
        """The stack to run it on: the services and the sandbox, from a broken build if one was asked for."""
        path: list[Path] = []
        if self._plan.patch:
            path = broken_copy(self._plan.patch, self._plan.project, self._plan.home / "broken" / self._plan.patch)
        jaeger = self._plan.jaeger
        beside = [jaeger.process(self._plan.home / "jaeger")] if jaeger is not None else []
        env = self._plan.env() | (jaeger.settings() if jaeger is not None else {})
        services = [one for one in SERVICES if self._plan.page or not one.web]
        return Stack(
            self._plan.home, self._plan.port, services=[*beside, SANDBOX, *services], env=env, python_path=path
        )

    def run(self, stack: Stack) -> Accounts:
        """All acts on a stack that is up; what the books say in the end. Raises DemoError."""
        sandbox = SandboxControl(f"http://127.0.0.1:{self._plan.sandbox_port}")
        if not sandbox.ready():
            raise DemoError("the sandbox does not answer; look at its log in .handrail/logs/sandbox.log")
        sandbox.order_faults("billing", *FAULTS)
        self._screen.say("billing has a bad day: 10 % transient errors, 2 % lost replies, 1 % empty promises")
        publications = self._publications()
        with Watcher(stack.bootstrap, self._plain) as watcher:
            self._publish_and_kill(stack, publications, watcher)
            distinct = len({entry.name for entry in read_manifest(self._manifest)})
            self._settle(watcher, distinct, 90.0)
            sandbox.mend("billing")
            self._screen.say("billing is mended; people decide what waits for them, and replay what can be replayed")
            people = People(stack.bootstrap, self._settings.contracts, f"{sandbox.url}/billing", self._env)
            self._screen.say(f"people decided: {dict(people.decide_tasks())}")
            self._screen.say(people.replay_what_can_be())
            self._settle(watcher, distinct, 60.0)
            waiting = people.decide_tasks()
            if waiting:
                self._screen.say(f"people decided what came up meanwhile: {dict(waiting)}")
                self._settle(watcher, distinct, 60.0)
        return self.accounts(stack.bootstrap)

    def accounts(self, bootstrap: str) -> Accounts:
        """Compare: what was published by the manifest, effects by billing's own database, ends by the public topics."""
        entries = read_manifest(self._manifest)
        with Books(self._plan.home / "sandbox.sqlite") as books:
            effects = {reference: len(found) for reference, found in books.effects_by_reference().items()}

        def values(topic: str) -> list[dict[str, Any]]:
            return [record.value for record in read_topic(bootstrap, topic, self._plain) if record.value is not None]

        letters = [(record.key, record.value) for record in read_topic(bootstrap, "dead-letters", self._plain)]
        return account(
            entries,
            effects,
            newest_runs(values("runs")),
            newest_letters(letters, values("recovery.states")),
            run_names=expected_runs({entry.name for entry in entries}),
        )

    def _publications(self) -> list[Publication]:
        orders = accepted_orders(generated(self._plan.home), self._plan.orders)
        return workload(orders, lambda event: self._contracts.encode(CONTRACT, event), self._plan.recipe)

    def _publish_and_kill(self, stack: Stack, publications: Sequence[Publication], watcher: Watcher) -> None:
        """Publish in a thread; kill one service after the other when their time has come."""
        failed: list[BaseException] = []

        def publish() -> None:
            try:
                self._publish(stack.bootstrap, publications)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=publish, name="publisher")
        thread.start()
        kills = list(KILLS)
        with self._screen.bar("published", len(publications)) as bar:
            while thread.is_alive():
                bar(self._acknowledged, _told(watcher))
                if kills and self._acknowledged >= kills[0][0] * len(publications):
                    _, service, inbox = kills.pop(0)
                    self._kill(stack, service, inbox)
                thread.join(0.1)
            bar(self._acknowledged, _told(watcher))
        for _, service, inbox in kills:
            self._kill(stack, service, inbox)
        if failed:
            raise failed[0]

    def _kill(self, stack: Stack, service: str, inbox: Inbox) -> None:
        pid, count = kill_in_flight(stack, service, inbox)
        self._screen.say(f"kill -9 {service} (pid {pid}) with {count} records in flight")
        started = time.monotonic()
        again = stack.wait_restarted(service, pid)
        self._screen.say(f"{service} is back as pid {again} after {time.monotonic() - started:.1f} s")

    def _publish(self, bootstrap: str, publications: Sequence[Publication]) -> None:
        partitions = require_topic(bootstrap, TOPIC)
        with Manifest(self._manifest) as manifest:

            def on_ack(acknowledged: Acknowledged) -> None:
                one = publications[acknowledged.index]
                manifest.acknowledged(
                    Entry(one.identity, one.kind, acknowledged.topic, acknowledged.partition, acknowledged.offset)
                )
                self._acknowledged += 1

            publish_records(
                publisher(bootstrap),
                TOPIC,
                ((one.key, one.value, ()) for one in publications),
                on_ack,
                rate=RATE,
                partition=lambda key: partition_for((key or b"").decode(), partitions),
            )

    def _settle(self, watcher: Watcher, expected: int, within_s: float) -> None:
        """Wait until all is quiet, or nothing moves any more; the accounts will say what is missing."""
        with self._screen.bar("at rest", expected) as bar:
            until = time.monotonic() + within_s
            while time.monotonic() < until:
                bar(min(expected, watcher.resting()), _told(watcher))
                if watcher.wait_until_quiet(expected, 0.5):
                    bar(min(expected, watcher.resting()), _told(watcher))
                    return
                if watcher.still_s() > STUCK_S:
                    self._screen.say(f"nothing has moved for {STUCK_S:.0f} s: {_told(watcher)}")
                    return
        self._screen.say(f"not quiet after {within_s:.0f} s: {_told(watcher)}")


def _told(watcher: Watcher) -> str:
    return "  ".join(f"{name} {count}" for name, count in sorted(watcher.states().items()) if count)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        for one in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            one.unlink(missing_ok=True)
