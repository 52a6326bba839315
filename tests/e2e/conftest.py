"""One whole deployment for all end-to-end tests: Kafka, all services, the sandbox, a collector of traces, and an onlooker."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from handrail.contracts import Contracts
from handrail.errors import ConfigError, HandrailError
from handrail.identity import partition_for, run_id
from handrail.kafka.publishing import Acknowledged, publish_records, publisher, require_topic
from handrail.local.jaeger import Jaeger, Ports
from handrail.local.ports import free_port
from handrail.local.services import SANDBOX, SERVICES
from handrail.local.state import ProcessState
from handrail.local.supervisor import Stack
from handrail.testing.otlp import Collector
from handrail_demo.plain import PlainContracts
from handrail_sandbox.books import BookedEffect, Books
from handrail_sandbox.client import SandboxControl

PROJECT = Path(__file__).parents[2]
CONTRACT, SOURCE, FLOW = "orders/order-accepted.v1", "ingest.orders.order-accepted", "order-to-invoice"
DONE = f"{FLOW}.done"
WATCHED = (
    SOURCE,
    f"{FLOW}.transform",
    f"{FLOW}.decision",
    "action.billing",
    "runs",
    "tasks",
    DONE,
    "dead-letters",
    "recovery.states",
)
CRASHES = ("crashed", "hung", "handler failed", "fenced", "misconfigured")
PATIENCE_S = 30.0
EARLY_S = 5
"""How long this Jaeger keeps back what was not sampled."""
Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Seen:
    """One committed record as an outsider sees it. `value` is None for a tombstone, and for what does not decode."""

    topic: str
    partition: int
    offset: int
    key: str
    value: dict[str, Any] | None
    headers: dict[str, bytes | None]


class Onlooker:
    """Reads topics with contracts/ alone, in a thread; tests wait on what it has seen, without polling."""

    def __init__(self, bootstrap: str, topics: Sequence[str] = WATCHED) -> None:
        self._contracts = PlainContracts(PROJECT / "contracts")
        self._seen: dict[str, list[Seen]] = defaultdict(list)
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"onlooker-{uuid.uuid4()}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
                "log_level": 0,
            }
        )
        found = self._consumer.list_topics(timeout=10).topics
        self._consumer.assign(
            [TopicPartition(name, number, OFFSET_BEGINNING) for name in topics for number in found[name].partitions]
        )
        self._thread = threading.Thread(target=self._run, name="onlooker", daemon=True)
        self._thread.start()

    def seen(self, topic: str) -> list[Seen]:
        with self._changed:
            return list(self._seen[topic])

    def wait(self, holds: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> Any:
        """Until `holds` gives something true, which is returned; looked at again whenever a record has come."""
        with self._changed:
            found = self._changed.wait_for(holds, within_s)
        assert found, f"not within {within_s:.0f} s: {what}"
        return found

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self._consumer.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            came = [self._read(message) for message in self._consumer.consume(500, 0.1) if message.error() is None]
            if came:
                with self._changed:
                    for one in came:
                        self._seen[one.topic].append(one)
                    self._changed.notify_all()

    def _read(self, message: Any) -> Seen:
        try:
            value = None if message.value() is None else self._contracts.decode(message.value())[1]
        except ValueError:
            if message.topic() != SOURCE:  # only the world may send what nobody can read
                raise
            value = None
        key = (message.key() or b"").decode("utf-8", "replace")
        headers = dict(message.headers() or [])
        return Seen(message.topic(), message.partition(), message.offset(), key, value, headers)


class Company:
    """The deployment, and what tests do with it as its users and neighbours."""

    project = PROJECT

    def __init__(
        self, home: Path, traces: Collector | Jaeger, per_service_env: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """Spans go to `traces`; a Jaeger is started with the rest."""
        self.home = home
        self.traces = traces
        self.sandbox = SandboxControl(f"http://127.0.0.1:{free_port()}")
        self.crashes: list[str] = []
        self._web = f"127.0.0.1:{free_port()}"
        beside = [traces.process(home / "jaeger")] if isinstance(traces, Jaeger) else []
        services = [*beside, SANDBOX, *SERVICES]
        self.stack = Stack(
            home,
            free_port(),
            services=services,
            env=self._settings(),
            per_service_env=per_service_env,
            on_log=self._listen,
        )
        self.contracts = Contracts.load(PROJECT / "contracts")
        self._onlooker: Onlooker | None = None
        self._numbers = itertools.count(1)
        self._partitions = 0

    @property
    def collector(self) -> Collector:
        assert isinstance(self.traces, Collector)
        return self.traces

    @property
    def onlooker(self) -> Onlooker:
        assert self._onlooker is not None, "the deployment has not started"
        return self._onlooker

    def start(self) -> None:
        self.stack.start()
        assert self.sandbox.ready()
        self._partitions = require_topic(self.stack.bootstrap, SOURCE)
        self._onlooker = Onlooker(self.stack.bootstrap)

    def stop(self) -> None:
        """Also one that has not started, or not wholly: nothing of it is left."""
        try:
            if self._onlooker is not None:
                self._onlooker.close()
        finally:
            self.stack.stop()

    def _listen(self, service: str, line: str) -> None:
        if any(f'"event": "{event}"' in line for event in CRASHES):
            self.crashes.append(f"{service}: {line}")

    def _settings(self) -> dict[str, str]:
        return {
            "HANDRAIL_CONTRACTS": str(PROJECT / "contracts"),
            "HANDRAIL_FLOWS": str(PROJECT / "flows"),
            "HANDRAIL_SYSTEMS": str(PROJECT / "systems"),
            "HANDRAIL_TOPICS": str(PROJECT / "deploy" / "kafka" / "topics.yaml"),
            "HANDRAIL_LEDGER": str(self.home / "ledger.sqlite"),
            "HANDRAIL_WEB": self._web,
            "HANDRAIL_SANDBOX_PORT": self.sandbox.url.rpartition(":")[2],
            "HANDRAIL_SANDBOX_DB": str(self.home / "sandbox.sqlite"),
            "HANDRAIL_SANDBOX_URL": self.sandbox.url,
        } | (
            self.traces.settings()
            if isinstance(self.traces, Jaeger)
            else {"OTEL_EXPORTER_OTLP_ENDPOINT": self.traces.endpoint}
        )

    # --- what comes in

    def order(self, **fields: Any) -> dict[str, Any]:
        """An order that nobody has had yet, accepted by every rule unless `fields` say otherwise."""
        order = {
            "order_id": f"E{next(self._numbers):05d}",
            "revision": 1,
            "customer_id": "cust-815",  # by no chance part of an id
            "customer_name": "Augusta Ada Byron",
            "segment": "BUILDING",
            "account_balance_minor": 100_000,
            "total_minor": 129_900,
            "currency": "EUR",
            "ordered_on": "2026-01-01",
        }
        return order | fields

    def orders(self, count: int, **fields: Any) -> list[dict[str, Any]]:
        return [self.order(**fields) for _ in range(count)]

    def publish(self, *orders: Mapping[str, Any], headers: Headers = (), rate: float | None = None) -> None:
        """Write orders to the source topic, as a shop would; nothing is checked."""
        values = [(order["order_id"], self.contracts.encode(CONTRACT, order), headers) for order in orders]
        self.publish_raw(*values, rate=rate)

    def publish_raw(self, *records: tuple[str, bytes | None, Headers], rate: float | None = None) -> list[Acknowledged]:
        acknowledged: list[Acknowledged] = []
        publish_records(
            publisher(self.stack.bootstrap),
            SOURCE,
            [(key.encode(), value, headers) for key, value, headers in records],
            acknowledged.append,
            rate=rate,
            partition=lambda key: partition_for((key or b"").decode(), self._partitions),
        )
        return sorted(acknowledged, key=lambda one: one.index)

    # --- what can be seen from outside

    def run_of(self, order: Mapping[str, Any]) -> str:
        return run_id(FLOW, {"order_id": order["order_id"], "revision": str(order["revision"])})

    def transitions(self, order: Mapping[str, Any]) -> list[dict[str, Any]]:
        run = self.run_of(order)
        found = [one.value for one in self.onlooker.seen("runs") if one.value and one.value["run"] == run]
        return sorted(found, key=lambda value: value["sequence"])

    def state(self, order: Mapping[str, Any]) -> str | None:
        told = self.transitions(order)
        return told[-1]["state"] if told else None

    def wait_for(self, state: str, *orders: Mapping[str, Any], within_s: float = PATIENCE_S) -> None:
        """Until every order's run is in this state."""
        left = {self.run_of(order): order["order_id"] for order in orders}

        def all_there() -> bool:
            newest: dict[str, tuple[int, str]] = {}
            for one in self.onlooker.seen("runs"):
                if one.value and one.value["run"] in left:
                    newest[one.value["run"]] = max(
                        newest.get(one.value["run"], (0, "")), (one.value["sequence"], one.value["state"])
                    )
            return all(newest.get(run, (0, ""))[1] == state for run in left)

        try:
            self.onlooker.wait(all_there, f"{len(left)} runs are {state}", within_s)
        except AssertionError as error:
            rest = {order["order_id"]: now for order in orders if (now := self.state(order)) != state}
            raise AssertionError(f"{error}; not so: {dict(itertools.islice(rest.items(), 10))}") from None

    def letters(self, *orders: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The dead letters of records with these orders' keys, every generation."""
        keys = {order["order_id"].encode() for order in orders}
        return [one.value for one in self.onlooker.seen("dead-letters") if one.value and one.value["key"] in keys]

    def letter(self, order: Mapping[str, Any], generation: int = 1) -> dict[str, Any]:
        """The order's dead letter of this generation, as soon as there is one."""

        def found() -> list[dict[str, Any]]:
            return [one for one in self.letters(order) if one["generation"] == generation]

        found_one: dict[str, Any] = self.onlooker.wait(found, f"a dead letter of {order['order_id']}")[0]
        return found_one

    def letter_of_run(self, order: Mapping[str, Any], number: int = 1) -> dict[str, Any]:
        """The number-th dead letter of the order's run, in time: each outcome that fails is a message of its own."""

        def found() -> list[dict[str, Any]]:
            run = self.run_of(order)
            values = [one.value for one in self.onlooker.seen("dead-letters") if one.value and one.value["run"] == run]
            return sorted(values, key=lambda value: value["failed_at"])[number - 1 :]

        found_one: dict[str, Any] = self.onlooker.wait(found, f"letter {number} of {order['order_id']}")[0]
        return found_one

    def letter_states(self, letter: str) -> list[str]:
        values = [one.value for one in self.onlooker.seen("recovery.states") if one.value]
        return [value["state"] for value in values if value["letter"] == letter]

    def tasks(self, order: Mapping[str, Any]) -> list[dict[str, Any]]:
        run = self.run_of(order)
        return [one.value for one in self.onlooker.seen("tasks") if one.value and one.value["run"] == run]

    def done_events(self, order: Mapping[str, Any]) -> list[Seen]:
        return [one for one in self.onlooker.seen(DONE) if one.key == order["order_id"]]

    def invoices(self, order: Mapping[str, Any]) -> list[BookedEffect]:
        """What billing's own books say."""
        return self._books().get(f"{order['order_id']}/{order['revision']}", [])

    def invoice_counts(self, orders: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        books = self._books()
        return {order["order_id"]: len(books.get(f"{order['order_id']}/{order['revision']}", [])) for order in orders}

    def calls(self, order: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Every call that billing received about an order, in order; also those in which it saw no reference."""
        reference, run = f"{order['order_id']}/{order['revision']}", self.run_of(order)
        with Books(self.home / "sandbox.sqlite") as books:
            return [
                call
                for call in books.calls(system="billing")
                if call["reference"] == reference or (call["idempotency_key"] or "").startswith(run)
            ]

    def _books(self) -> dict[str, list[BookedEffect]]:
        with Books(self.home / "sandbox.sqlite") as books:
            return books.effects_by_reference()

    def process(self, service: str) -> ProcessState:
        return next(one for one in self.stack.state().services if one.name == service)

    # --- the command line

    def env(self, **changed: str) -> dict[str, str]:
        ours = {"HANDRAIL_HOME": str(self.home), "HANDRAIL_BOOTSTRAP": self.stack.bootstrap, "COLUMNS": "200"}
        return {**os.environ, **self._settings(), **ours, "USER": "eve", **changed}

    def handrail(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """Run the command as a user does; `changed` are variables of its environment."""
        return subprocess.run(
            [str(Path(sys.executable).parent / "handrail"), *arguments],
            cwd=PROJECT,
            env=self.env(**changed),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def told(self, *arguments: str) -> Any:
        """What a command says with --json."""
        ended = self.handrail(*arguments, "--json")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return json.loads(ended.stdout)

    def wait_told(self, holds: Callable[[Any], Any], *arguments: str, within_s: float = 15.0) -> Any:
        """Ask the command line until `holds` of what it says: the ledger follows the topics by itself."""
        until = time.monotonic() + within_s
        while True:
            told = self.told(*arguments)
            if holds(told):
                return told
            assert time.monotonic() < until, f"handrail {' '.join(arguments)} still says {told}"


@contextmanager
def started(
    home: Path, traces: Collector | Jaeger, per_service_env: Mapping[str, Mapping[str, str]] | None = None
) -> Iterator[Company]:
    company = Company(home, traces, per_service_env)
    try:
        company.start()
        yield company
    finally:
        company.stop()


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    with Collector() as collector, started(tmp_path_factory.mktemp("company"), collector) as company:
        yield company


@pytest.fixture(scope="session")
def company_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AbstractContextManager[Company]]:
    """Another deployment, whose spans go to this Jaeger or collector; its services' environments, if need be."""
    return lambda *given: started(tmp_path_factory.mktemp("another"), *given)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Where the real Jaeger has to be built, that begins at once and takes what the other tests leave of the machine."""
    asks = any("jaeger" in getattr(item, "fixturenames", ()) for item in session.items)
    if not asks or session.config.option.collectonly:
        return

    def build() -> None:
        with suppress(HandrailError, OSError):  # the fixture below meets it again, and tells it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)  # in Linux of this thread and what it starts
            Jaeger.find(os.environ, Ports(0, 0, 0), lambda _: None)  # what it says would be in other tests' output

    threading.Thread(target=build, name="building-jaeger", daemon=True).start()


@pytest.fixture(scope="session")
def jaeger() -> Jaeger:
    """A real Jaeger, to be run on ports of its own. One that is being built just now is waited for."""
    try:
        found = Jaeger.find(os.environ, Ports(0, 0, 0), lambda text: print(text))  # noqa: T201
        ports = Ports(free_port(), free_port(), free_port())  # only now: building takes minutes
        return replace(found, ports=ports, early_s=EARLY_S)
    except ConfigError as error:
        pytest.skip(f"no Jaeger: {error}")


@pytest.fixture
def company(running: Company) -> Iterator[Company]:
    """The deployment, with billing well and every service up, before and after; and no service has crashed by itself."""
    yield running
    crashes, running.crashes[:] = list(running.crashes), []
    running.sandbox.mend("billing")
    for service in SERVICES:
        if running.process(service.name).pid is None:
            running.stack.start_service(service.name)
    assert crashes == []
