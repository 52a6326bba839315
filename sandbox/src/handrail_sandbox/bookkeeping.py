"""Writing the books: every call, every effect, and what an idempotent system remembers. One writer, one thread."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from handrail_sandbox.faults import Ordered, Rule
from handrail_sandbox.replies import Effect, Reply

BODY_KEPT = 16_384
"""Characters of a call's body that are kept; its hash covers all of it."""


class Ending(StrEnum):
    """How a call ended. `open` calls are held by a `slow` fault, or their server was killed."""

    REPLIED = "replied"
    HUNG = "hung"
    REPLY_LOST = "reply lost"
    OPEN = "open"
    SHUT_DOWN = "shut down"


class Idempotency(StrEnum):
    """What a system makes of an `Idempotency-Key`."""

    HONOURED = "honoured"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it came in. `body_hash` is BLAKE2b-128 of the raw body, hex."""

    system: str
    operation: str
    method: str
    path: str
    body: str
    body_hash: str
    idempotency_key: str | None
    traceparent: str | None
    reference: str = ""
    attempt: int = 0

    def asks(self) -> str:
        """What must be equal when an idempotency key comes again."""
        return f"{self.method} {self.path} {self.body_hash}"


@dataclass(frozen=True, slots=True)
class Stored:
    """A reply that an idempotent system remembers, and what it was the reply to."""

    asks: str
    reply: Reply


class BookKeeper:
    """The only writer of the books. `now` gives ms since the epoch.

    Faults and settings live in the books too: a sandbox that is started again goes on as it was.
    """

    def __init__(self, connection: sqlite3.Connection, now: Callable[[], int]) -> None:
        self.connection = connection
        self.now = now
        self._faults: dict[str, list[Ordered]] = {}
        for row in connection.execute("SELECT * FROM faults ORDER BY id"):
            rule = Rule.model_validate_json(row["rule"])
            self._faults.setdefault(row["system"], []).append(Ordered(row["id"], rule, row["spent"]))
        self._idempotency = {
            row["system"]: Idempotency(row["idempotency"]) for row in connection.execute("SELECT * FROM settings")
        }

    def close(self) -> None:
        """Close the books; what was committed is in the file."""
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside happens, or nothing does."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def open_call(
        self, call: Call, *, ending: Ending = Ending.OPEN, fault: Ordered | None = None, replayed: bool = False
    ) -> int:
        """Log a call that has come in; gives its number. Counts the fault as applied."""
        cursor = self.connection.execute(
            """INSERT INTO calls (at, system, operation, method, path, reference, attempt, idempotency_key,
               traceparent, body, body_hash, fault, replayed, ending) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)""",
            (
                self.now(),
                call.system,
                call.operation,
                call.method,
                call.path,
                call.reference,
                call.attempt,
                call.idempotency_key,
                call.traceparent,
                call.body[:BODY_KEPT],
                call.body_hash,
                fault.rule.kind.value if fault else None,
                int(replayed),
                ending.value,
            ),
        )
        if fault:
            self._spend(call.system, fault)
        return int(cursor.lastrowid or 0)

    def close_call(self, number: int, ending: Ending, status: int | None) -> None:
        """Log how a call ended; `status` is None where no reply was made."""
        self.connection.execute(
            "UPDATE calls SET ending = ?, status = ?, ended_at = ? WHERE id = ?",
            (ending.value, status, self.now(), number),
        )

    def record(self, call: Call, reply: Reply, *, replayed: bool = False) -> None:
        """Log a call and its reply at once, in a transaction of its own. No effects."""
        with self.transaction():
            number = self.open_call(call, replayed=replayed)
            self.close_call(number, Ending.REPLIED, reply.status)

    def log_effect(self, number: int, call: Call, effect: Effect) -> None:
        """Log one effect of a call."""
        self.connection.execute(
            """INSERT INTO effects (at, system, kind, reference, amount_minor, currency, idempotency_key, call)
               VALUES (?,?,?,?,?,?,?,?)""",
            (
                self.now(),
                call.system,
                effect.kind,
                effect.reference,
                effect.amount_minor,
                effect.currency,
                call.idempotency_key,
                number,
            ),
        )

    def attempts(self, system: str, operation: str, reference: str) -> int:
        """How many calls of this operation for this reference were logged so far."""
        query = "SELECT count(*) FROM calls WHERE system = ? AND operation = ? AND reference = ?"
        return int(self.connection.execute(query, (system, operation, reference)).fetchone()[0])

    def faults(self, system: str) -> list[Ordered]:
        """The faults on order for a system, in the order in which they are tried."""
        return self._faults.get(system, [])

    def order_faults(self, system: str, rules: Sequence[Rule]) -> None:
        """Replace a system's faults; none mends it."""
        with self.transaction():
            self.connection.execute("DELETE FROM faults WHERE system = ?", (system,))
            ordered = [
                Ordered(
                    int(
                        self.connection.execute(
                            "INSERT INTO faults (system, rule) VALUES (?, ?)", (system, rule.model_dump_json())
                        ).lastrowid
                        or 0
                    ),
                    rule,
                    0,
                )
                for rule in rules
            ]
        self._faults[system] = ordered

    def idempotency(self, system: str) -> Idempotency:
        """Ignored unless it was set otherwise, so that duplicates must be prevented on the caller's side."""
        return self._idempotency.get(system, Idempotency.IGNORED)

    def set_idempotency(self, system: str, idempotency: Idempotency) -> None:
        """Set what a system makes of idempotency keys."""
        with self.transaction():
            self.connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (system, idempotency.value))
        self._idempotency[system] = idempotency

    def stored(self, system: str, key: str) -> Stored | None:
        """The reply that a system remembers for an idempotency key."""
        row = self.connection.execute("SELECT * FROM replies WHERE system = ? AND key = ?", (system, key)).fetchone()
        if row is None:
            return None
        return Stored(row["request"], Reply(row["status"], json.loads(row["body"]), json.loads(row["headers"])))

    def store(self, call: Call, key: str, reply: Reply) -> None:
        """Remember a reply for an idempotency key."""
        self.connection.execute(
            "INSERT INTO replies VALUES (?,?,?,?,?,?)",
            (call.system, key, call.asks(), reply.status, json.dumps(reply.body), json.dumps(dict(reply.headers))),
        )

    def _spend(self, system: str, fault: Ordered) -> None:
        self.connection.execute("UPDATE faults SET spent = spent + 1 WHERE id = ?", (fault.id,))
        self._faults[system] = [
            Ordered(one.id, one.rule, one.spent + (one.id == fault.id)) for one in self.faults(system)
        ]
