"""A bench for the effect ledger: a real stage in memory, and a worker whose calls a test answers by hand."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.flow import Flow, Flows, System
from handrail.identity import run_id
from handrail.message import Finished, Run
from handrail.recovery import Policy
from handrail.spec import Spec
from handrail.testing.clock import ManualClock
from handrail.testing.driver import StageDriver
from handrail.testing.memory import MemoryBroker
from handrail_action.bootstrap import encoder
from handrail_action.calls import Job, Reply
from handrail_action.effects import COMMAND, FAILING, OUTCOME, TABLES, Effects

ROOT = Path(__file__).parents[3]
SETTLE, WITHIN = 300, 10_000
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@cache
def contracts() -> Contracts:
    return Contracts.load(ROOT / "contracts")


@cache
def flows() -> Flows:
    return Flows.load(ROOT / "flows", ROOT / "systems", contracts())


class Phone:
    """A worker that makes no call: what it is told to do lies open until the test answers, oldest first."""

    def __init__(self) -> None:
        self.started: list[Job] = []
        self.open: deque[tuple[int, str, Job]] = deque()
        self._results: list[tuple[int, Finished]] = []

    def start(self, partition: int, key: str, job: Job) -> None:
        self.started.append(job)
        self.open.append((partition, key, job))

    def finished(self) -> Sequence[tuple[int, Finished]]:
        taken, self._results = self._results, []
        return taken

    def busy(self) -> bool:
        return bool(self.open)

    def room(self) -> int:
        return sys.maxsize

    def forget(self, partition: int) -> None:
        self.open = deque(each for each in self.open if each[0] != partition)

    def close(self) -> None:
        self.open.clear()

    def give(self, **reply: Any) -> Job:
        """Answer the oldest open call or question."""
        partition, key, job = self.open.popleft()
        self._results.append((partition, Finished(key, Reply(job.kind, job.attempt, job.check, **reply))))
        return job

    def says(self, status: int, values: Mapping[str, Any] | str = "", retry_after: str | None = None) -> Job:
        body = values if isinstance(values, str) else json.dumps(values)
        return self.give(status=status, body=body.encode(), retry_after=retry_after)


class Bench:
    """The stage `action.billing` with the flow order-to-invoice, or with a system or a step that differs from it."""

    def __init__(self, home: Path, *, verify: bool = True, rule: Any = None, **system: Any) -> None:
        self.broker = MemoryBroker()
        for topic in ("order-to-invoice.decision", "dead-letters"):
            self.broker.create(topic)
        self.system: System = flows().systems["billing"].resolved({}).model_copy(update={"settle_ms": SETTLE, **system})
        self.flow = self._flow(verify, rule)
        self.clock = ManualClock(self.broker.now)
        self.phone = Phone()
        self._home, self._lives = home, 0
        self.driver = self._start()

    def _flow(self, verify: bool, rule: Any) -> Flow:
        flow = flows().newest("order-to-invoice")
        (step,) = flow.steps
        asked = step.verify.model_copy(update={"within_ms": WITHIN}) if verify and step.verify else None
        steps = (step.model_copy(update={"verify": asked}),)
        definition = flow.definition.model_copy(update={"steps": steps, "retry": {}})
        policy = Policy.from_config({"transient": {"from": 200, "to": 5_000, "times": 6}})
        expectations = dict(flow.expectations)
        if rule is not None:
            expectations["invoice"] = replace(expectations["invoice"], condition=rule)
        systems = {**flow.systems, "billing": self.system}
        return replace(flow, definition=definition, policy=policy, systems=systems, expectations=expectations)

    def _start(self) -> StageDriver:
        self._lives += 1
        handler = Effects(
            self.system,
            lambda _name, _version: self.flow,
            lambda raw: contracts().decode(raw)[1],
            encoder(contracts()),
            lambda: 0.0,
        )
        spec = Spec(
            name="action.billing",
            inbox="action.billing",
            accepts=frozenset({COMMAND}),
            handler=handler,
            partitions=lambda _topic: 1,
            knows=lambda _flow, version: version == 1,
            tables=TABLES,
        )
        home = self._home / f"life {self._lives}"
        return StageDriver(self.broker, spec, contracts(), home, worker=self.phone, clock=self.clock)

    def crash(self) -> None:
        """As by kill -9 on a machine whose disk is gone too: calls under way are lost, and so is the local folder."""
        self.driver.crash()
        self.phone = Phone()
        self.driver = self._start()
        self.driver.drain()

    def close(self) -> None:
        self.driver.crash()

    def command(self, order: str = "7", revision: int = 1, *, id: str | None = None, **fields: Any) -> str:  # noqa: A002
        """Send a command of the step `invoice`; the key of its effect."""
        request = contracts().encode("billing/invoice-request.v1", request_of(order, fields.pop("total_minor", 500)))
        event = contracts().encode(
            "orders/order-accepted.v1",
            {
                "order_id": order,
                "revision": 1,
                "customer_id": "c1",
                "account_balance_minor": 0,
                "total_minor": 500,
                "currency": "EUR",
                "ordered_on": "2026-11-21",
            },
        )
        run = run_id("order-to-invoice", {"order_id": order, "revision": fields.pop("of", "1")})
        trace = fields.pop("traceparent", TRACE)
        body = {
            "run": run,
            "flow": "order-to-invoice",
            "version": 1,
            "route": order,
            "step": "invoice",
            "revision": revision,
            "system": "billing",
            "operation": "create-invoice",
            "event": event,
            "request": request,
            "issued_at": self.clock.now(),
        } | fields
        key = f"{body['run']}/{body['step']}/r{body['revision']}"
        value = contracts().encode(COMMAND, body)
        self.driver.send(
            COMMAND, order, value, id=id or f"for {key}", run=Run(run, "order-to-invoice", 1), traceparent=trace
        )
        self.driver.drain()
        return key

    def pass_time(self, ms: int) -> None:
        self.clock.advance(ms)
        self.driver.drain()

    def wait_until_called(self, within_ms: int = 60_000, step_ms: int = 50) -> Job:
        """Let time pass until there is something to answer; that call or question."""
        self.driver.drain()
        for _ in range(within_ms // step_ms):
            if self.phone.open:
                return self.phone.open[0][2]
            self.pass_time(step_ms)
        raise AssertionError(f"nobody called within {within_ms} ms; outcomes so far: {self.outcomes()}")

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        """What decision hears, in order: contract and body."""
        records = self.broker.records("order-to-invoice.decision")
        found = [contracts().decode(record.value or b"") for record in records]
        return [(contract.name, body) for contract, body in found]

    def outcomes(self) -> list[dict[str, Any]]:
        return [body for contract, body in self.told() if contract == OUTCOME]

    def failings(self) -> list[dict[str, Any]]:
        return [body for contract, body in self.told() if contract == FAILING]

    def outcome(self) -> dict[str, Any]:
        """The only outcome there is, after everything has come to rest."""
        self.driver.drain()
        (only,) = self.outcomes()
        return only


def request_of(order: str, total_minor: int = 500) -> dict[str, Any]:
    return {"reference": f"{order}/1", "customer_id": "c1", "total_minor": total_minor, "currency": "EUR"}


def invoice(order: str = "7", total_minor: int = 500, **more: Any) -> dict[str, Any]:
    """What billing answers about an invoice."""
    return {"invoice_id": "i-1", **request_of(order, total_minor), **more}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**given: Any) -> Bench:
        made.append(Bench(tmp_path / str(len(made)), **given))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def invoice_body() -> Callable[..., dict[str, Any]]:
    return invoice
