"""A ledger with three flows and twelve weeks behind it, as the services would have written it: for the page to show."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from handrail.contracts import Contracts
from handrail_console.ledger import Ledger
from handrail_console.projection import PROJECTIONS, Record

MIN = 60_000
HOUR = 60 * MIN
DAY = 24 * HOUR
INVOICE, DEAL, ONBOARD = "order-to-invoice", "lead-to-deal", "staff-onboarding-with-a-very-long-name-that-must-wrap"
LONG = "a" * 120
NOTHING = dict.fromkeys(("amount", "unit", "step", "since", "within_ms"))


class Town:
    """Writes records at ever later offsets. `now` is ms since the epoch."""

    def __init__(self, ledger: Ledger, contracts: Contracts, now: int) -> None:
        self._ledger, self._contracts, self.now = ledger, contracts, now
        self._offsets: Counter[str] = Counter()
        self._runs = 0

    def fill(self) -> None:
        """Everything at once; the positions say that nothing is to come."""
        self._ledger.apply(list(self._all()), reached={})

    def _all(self) -> Iterator[Record]:
        for week in range(12):
            began = self.now - (11 - week) * 7 * DAY - 2 * HOUR
            for number in range(20 + week):
                failed = number < (week * 5) % 4 + (3 if week == 8 else 0)
                yield from self._run(INVOICE, f"4{week:02}{number:02}", began + number * MIN, failed)
            yield from self._duplicates(INVOICE, 4 + week, began)
        for number in range(3):
            yield from self._run(DEAL, f"L-{number}", self.now - 3 * HOUR + number * MIN, failed=False)
        yield from self._waits(DEAL, "L-77", "Let lead-to-deal L-77 go on?", self.now - HOUR, self.now + 3 * HOUR)
        yield from self._waits(
            ONBOARD, LONG, f"Order a laptop for {LONG}", self.now - 9 * HOUR, self.now - HOUR, kind="manual"
        )
        yield self._alert("calls-failing", "billing", "CRITICAL", "12 calls to billing failed and none went well.")
        yield self._alert("lag", f"{ONBOARD}.transform", "WARNING", f"{ONBOARD}.transform is 4 min behind.")

    def _run(self, flow: str, route: str, at: int, failed: bool) -> Iterator[Record]:
        run = self._id()
        yield self._step(run, flow, route, 1, "prepared", "prepared", at)
        yield self._step(run, flow, route, 2, "acting", "next", at + 400, step="invoice")
        if not failed:
            yield self._step(run, flow, route, 3, "done", "outcome", at + 1900, step="invoice", attempts=1)
            return
        kind, message = (
            ("business", "billing said no: the credit limit of this customer is used up")
            if self._runs % 3
            else ("transient", f"billing answered 503 seven times: {LONG}")
        )
        why = {"step": "invoice", "failure_class": kind, "reason": message, "first_failure_at": at + 900}
        yield self._step(run, flow, route, 3, "failed", "outcome", at + 2600, attempts=7, **why)
        yield self._of("dead-letters", run, self._letter(run, flow, route, kind, message, at + 2600))
        if at < self.now - 20 * DAY:  # what is older was replayed and is done
            yield self._step(
                run, flow, route, 4, "acting", "replay", at + HOUR, step="invoice", first_failure_at=at + 900
            )
            yield self._step(
                run,
                flow,
                route,
                5,
                "done",
                "outcome",
                at + HOUR + 900,
                step="invoice",
                attempts=1,
                first_failure_at=at + 900,
            )
            closed = {"letter": run, "generation": 1, "state": "RESOLVED", "replays": 1, "by": "ann", "reason": None}
            told = {"stage": f"{flow}.decision", "flow": flow, "failure_class": kind, "at": at + HOUR + 1000}
            yield self._of("recovery.states", run, closed | told)

    def _waits(self, flow: str, route: str, title: str, at: int, due: int, kind: str = "approval") -> Iterator[Record]:
        run, state = self._id(), "waiting" if kind == "approval" else "manual"
        yield self._step(run, flow, route, 1, "prepared", "prepared", at)
        yield self._step(run, flow, route, 2, state, "decision", at + 500, step="review", task=run, reason="large")
        body = {
            "run": run,
            "flow": flow,
            "version": 1,
            "task": run,
            "route": route,
            "step": "review",
            "kind": kind,
            "state": "open",
            "group": "sales-leads@example.com",
            "title": title,
            "context": json.dumps({"event": {"secret_of_the_customer": 1}}),
            "runbook": "runbook.md",
            "due_at": due,
            "decided_by": None,
            "reason": None,
            "at": at,
        }
        yield self._of("tasks", run, body)

    def _step(
        self, run: str, flow: str, route: str, sequence: int, state: str, event: str, at: int, **more: Any
    ) -> Record:
        body = {
            "run": run,
            "flow": flow,
            "version": 1,
            "route": route,
            "sequence": sequence,
            "previous": None,
            "state": state,
            "event": event,
            "step": None,
            "failure_class": None,
            "reason": None,
            "attempts": 0,
            "actor": None,
            "dedupe": {"order_id": route, "revision": "1"},
            "outcomes": self._outcomes(at) if sequence == 1 else [],
            "segments": {"segment": ("BUILDING", "AUTOMOBILE")[len(route) % 2]} if sequence == 1 else {},
            "task": None,
            "trace": run.replace("-", ""),
            "first_failure_at": None,
            "at": at,
        }
        return self._of("runs", route, body | more)

    def _outcomes(self, at: int) -> list[dict[str, Any]]:
        return [
            {**NOTHING, "name": "time-to-invoice", "step": "invoice", "since": at, "within_ms": 2_000},
            {**NOTHING, "name": "value-at-risk", "amount": 129_900.0, "unit": "EUR"},
            {**NOTHING, "name": "value-in-a-currency-nobody-knows", "amount": 0.5, "unit": LONG},
        ]

    def _letter(self, run: str, flow: str, route: str, kind: str, message: str, at: int) -> dict[str, Any]:
        return {
            "letter": run,
            "generation": 1,
            "stage": f"{flow}.decision",
            "flow": flow,
            "version": 1,
            "run": run,
            "route": route,
            "step": "invoice",
            "topic": f"{flow}.decision",
            "partition": 3,
            "offset": 42,
            "timestamp": at,
            "key": route.encode(),
            "value": b"\x00secret_of_the_customer",
            "headers": [],
            "event_id": None,
            "contract": None,
            "failure_class": kind,
            "field": None,
            "exception": None,
            "message": message,
            "stack": None,
            "fingerprint": kind.ljust(16, "0"),
            "attempts": 7,
            "trace": None,
            "payload_hash": "00" * 16,
            "failed_at": at,
            "first_failed_at": at,
        }

    def _duplicates(self, flow: str, number: int, at: int) -> Iterator[Record]:
        stage = f"{flow}.transform"
        yield self._of("stats", stage, {"stage": stage, "flow": flow, "counts": {"duplicates": number}, "at": at})

    def _alert(self, rule: str, subject: str, severity: str, what: str) -> Record:
        body = {
            "alert": f"{rule}/{subject}",
            "rule": rule,
            "subject": subject,
            "state": "FIRING",
            "severity": severity,
            "since": self.now - HOUR,
            "sequence": 1,
            "what": what,
            "means": "Runs that need it wait and are tried again; nothing is done twice.",
            "todo": f"See whether {subject} is up: handrail status, and the log of its stage.",
            "owner": "billing-ops@example.com",
            "runbook": f"docs/operations/alerts.md#{rule}",
            "flow": None,
            "system": subject if rule == "calls-failing" else None,
            "to": [],
            "told": [],
            "at": self.now - HOUR,
        }
        return self._of("alerts", body["alert"], body)

    def _of(self, topic: str, key: str, body: dict[str, Any]) -> Record:
        offset = self._offsets[topic]
        self._offsets[topic] += 1
        value = self._contracts.encode(list(PROJECTIONS[topic].contracts)[-1], body)
        return Record(topic, 0, offset, body["at"] if "at" in body else body["failed_at"], key.encode(), value)

    def _id(self) -> str:
        self._runs += 1
        return f"0a1b2c3d-0000-8000-8000-{self._runs:012d}"
