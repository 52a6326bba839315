"""A process with one real stage on real Kafka, for test_crashes.py and its neighbours: it copies each order and counts the
orders of its key.

`CRASH_HANDLER=<what>:<n>:<flag file>`: what becomes of the handler at the n-th message, once: `hang` (it never returns),
`stop` (SIGSTOP, as a machine that sleeps), `fail` (to be tried again) or `<seconds>` (it takes so long). The flag file is
written first.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from handrail.contracts import Contracts
from handrail.errors import Failure
from handrail.kafka.admin import connect
from handrail.kafka.inspect import describe
from handrail.message import Due, Finished, Message, Output, Run
from handrail.pending import View
from handrail.service import Ground, Plan, guard, host
from handrail.settings import Settings
from handrail.spec import Handler, Spec
from handrail.telemetry import Telemetry

WINDOW_MS = 14 * 24 * 3_600_000

ORDER = "orders/order-accepted.v1"
COUNTS = "handrail/run-state.v1"
RUN = Run("01234567-89ab-8def-8123-456789abcdef", "order-to-invoice", 1)


def count_row(key: str, count: int) -> dict[str, Any]:
    """A row of the table: `sequence` is the count."""
    return {
        "run": RUN.id, "flow": RUN.flow, "version": 1, "route": key, "state": "acting", "step": None, "step_index": 0,
        "revision": 1, "sequence": count, "event": b"", "request": b"", "decision": None, "responses": {}, "task": None,
        "dedupe": {}, "first_failure_at": None, "started_at": 0, "updated_at": 0,
    }  # fmt: skip


def spec(stage: str, partitions: Any) -> Spec:
    """The stage: small batches, so that a crash comes in the middle."""

    def copy_and_count(given: Message | Due | Finished, view: View) -> Iterable[Output]:
        assert isinstance(given, Message)
        if given.key == "deadly":  # as a segmentation fault does
            os.kill(os.getpid(), signal.SIGKILL)
        row = view.get("counts", given.key)
        view.put("counts", given.key, count_row(given.key, (row["sequence"] if row else 0) + 1))
        yield Output(f"{stage}.out", ORDER, given.key, value=given.value)

    return Spec(
        name=stage,
        inbox=f"{stage}.in",
        accepts=frozenset({ORDER}),
        handler=copy_and_count,
        partitions=partitions,
        knows=lambda _flow, _version: True,
        tables={"counts": COUNTS},
        dead_letters=f"{stage}.letters",
        batch=40,
    )


def trouble(text: str) -> Callable[[], None]:
    """What `CRASH_HANDLER` asks for, to be called for each message."""
    if not text:
        return lambda: None
    what, nth, flag = text.split(":", 2)
    path, left = Path(flag), int(nth)

    def strike() -> None:
        nonlocal left
        left -= 1
        if left > 0 or path.exists():
            return
        path.write_text(text)
        if what == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif what == "fail":
            raise Failure("transient", "ordered")
        else:
            threading.Event().wait(None if what == "hang" else float(what))

    return strike


def troubled(handler: Handler, strike: Callable[[], None]) -> Handler:
    """The handler, in trouble now and then."""

    def handle(given: Message | Due | Finished, view: View) -> Iterable[Any]:
        strike()
        return handler(given, view)

    return handle


def run(stop: threading.Event) -> int:
    """Like a service's own start, without flows."""
    own = Settings.from_env(os.environ)
    topics = describe(connect(own.bootstrap, float(os.environ.get("CRASH_CONNECT_S", "30"))))
    ground = Ground("crash", own, Contracts.load(own.contracts), topics, Telemetry.from_env("crash", {}), WINDOW_MS)
    made = spec(os.environ["CRASH_STAGE"], ground.partitions)
    made = replace(made, handler=troubled(made.handler, trouble(os.environ.get("CRASH_HANDLER", ""))))
    return host([Plan(made)], ground, stop)


if __name__ == "__main__":
    guard("crash", run)
