"""The stage that the model drives: its outputs depend on its state, it has timers, and a worker that makes calls."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from handrail.contracts import Contracts
from handrail.errors import Failure
from handrail.message import Due, Finished, GiveUp, Message, Output
from handrail.pending import View
from handrail.recovery import Policy
from handrail.spec import Handler, Spec

STAGE, OUT, LETTERS = "m", "out", "dead-letters"
PARTITIONS = 2
ORDER, ROW = "orders/order-accepted.v1", "handrail/run-state.v1"
KINDS = ("plain", "timer", "job")
FAILURES = ("transient", "outage", "business", "gives up", "too large", "deadly")
LARGEST = 4_000  # bytes that the broker takes
TIMER_MS, CHECK_MS = 5_000, 20_000
LATEST_RETRY_MS = 60_000


def order(contracts: Contracts, key: str, number: int, kind: str) -> bytes:
    """The n-th input of a key."""
    return _order(contracts, key, number, 1, "input", kind, 0)


def event_id(body: Mapping[str, Any]) -> str:
    return f"{body['order_id']}/{body['revision']}"


def _order(contracts: Contracts, key: str, number: int, count: int, what: str, kind: str, replay: int) -> bytes:
    return contracts.encode(
        ORDER,
        {
            "order_id": key, "revision": number, "customer_id": what, "customer_name": None, "segment": kind,
            "account_balance_minor": replay, "total_minor": count, "currency": "EUR", "ordered_on": "2026-11-21",
        },
    )  # fmt: skip


def _row(key: str, count: int, event: bytes = b"") -> dict[str, Any]:
    """A row: `sequence` is a count, `event` an order that has a call open."""
    return {
        "run": "", "flow": "", "version": 1, "route": key, "state": "acting", "step": None, "step_index": 0,
        "revision": 1, "sequence": count, "event": event, "request": b"", "decision": None, "responses": {},
        "task": None, "dedupe": {}, "first_failure_at": None, "started_at": 0, "updated_at": 0,
    }  # fmt: skip


class Counting:
    """The handler: each output has the number of outputs that its key has had.

    An input gives one output ("done"); of kind `timer` another when its timer is due, of kind `job` another when its call is
    answered. `failing` maps the ids of inputs that fail at present to how; `die` ends the process.
    """

    def __init__(self, contracts: Contracts, failing: dict[str, str], die: Callable[[], None]) -> None:
        self._contracts, self._failing, self._die = contracts, failing, die

    def __call__(self, given: Message | Due | Finished, view: View) -> Iterable[Output | GiveUp]:
        match given:
            case Message():
                yield from self._message(given, view)
            case Due(name="wake"):
                yield self._output(view, given.payload, "timer", 0)
            case Due():
                if (row := view.get("jobs", given.key)) is not None:
                    self._call(view, given.key, row["event"])
            case Finished():
                if (row := view.get("jobs", given.key)) is not None:
                    view.put("jobs", given.key, None)
                    view.set_timer("check", given.key, None)
                    yield self._output(view, row["event"], "job", 0)

    def _message(self, message: Message, view: View) -> Iterator[Output | GiveUp]:
        failure = self._failing.get(message.id)
        if failure == "gives up":
            yield GiveUp("business", "no")
            return
        if failure == "deadly":
            self._die()
        if failure == "too large":
            yield Output(OUT, ORDER, message.body["order_id"], value=bytes(LARGEST))
            return
        if failure is not None:
            raise Failure(failure, "down")
        if message.body["segment"] == "timer":
            view.set_timer("wake", message.id, view.now + TIMER_MS, message.value)
        if message.body["segment"] == "job":
            view.put("jobs", message.id, _row(message.key, 0, message.value))
            self._call(view, message.id, message.value)
        yield self._output(view, message.value, "done", message.replay)

    def _call(self, view: View, event: str, value: bytes) -> None:
        view.set_timer("check", event, view.now + CHECK_MS)
        view.start(event, value)

    def _output(self, view: View, value: bytes, what: str, replay: int) -> Output:
        body = self._contracts.decode(value)[1]
        key = body["order_id"]
        row = view.get("counts", key)
        count = (row["sequence"] if row else 0) + 1
        view.put("counts", key, _row(key, count))
        sent = _order(self._contracts, key, body["revision"], count, what, body["segment"], replay)
        return Output(OUT, ORDER, key, value=sent)


def spec(handler: Handler, **given: Any) -> Spec:
    """The stage. What differs may be given."""
    usual: dict[str, Any] = {
        "name": STAGE,
        "inbox": f"{STAGE}.in",
        "accepts": frozenset({ORDER}),
        "handler": handler,
        "partitions": lambda _topic: PARTITIONS,
        "knows": lambda _flow, _version: True,
        "tables": {"counts": ROW, "jobs": ROW},
        "dead_letters": LETTERS,
        "batch": 4,
        "policy": Policy.from_config({"transient": {"times": 2, "to": 10_000}, "outage": {"to": LATEST_RETRY_MS}}),
    }
    return Spec(**(usual | given))


class Desk:
    """A worker whose calls are answered when the model says so. `intent` is asked before each call."""

    def __init__(self, intent: Callable[[str], None]) -> None:
        self.open: deque[tuple[int, str]] = deque()
        self._intent = intent
        self._results: list[tuple[int, Finished]] = []

    def answer(self) -> None:
        """All calls that are open are answered."""
        self._results += [(partition, Finished(key, "ok")) for partition, key in self.open]
        self.open.clear()

    def start(self, partition: int, key: str, job: Any) -> None:  # noqa: ARG002
        self._intent(key)
        self.open.append((partition, key))

    def finished(self) -> Sequence[tuple[int, Finished]]:
        taken, self._results = self._results, []
        return taken

    def busy(self) -> bool:
        return bool(self.open)

    def room(self) -> int:
        return sys.maxsize

    def forget(self, partition: int) -> None:
        self.open = deque(each for each in self.open if each[0] != partition)
        self._results = [each for each in self._results if each[0] != partition]

    def close(self) -> None:
        self.open.clear()
