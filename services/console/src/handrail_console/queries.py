"""What people ask the ledger. Rows come as plain dicts; times in ms since the epoch, UTC."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handrail_console.ledger import open_for_reading

Row = dict[str, Any]
ENDS = ("done", "rejected", "failed", "compensated", "cancelled", "done-by-hand")
"""States of a run after which nothing more happens."""
_BRIEF = """letter, generation, stage, flow, version, run, route, step, topic, "partition", "offset", timestamp, key, headers,
  event_id, contract, failure_class, field, exception, message, fingerprint, attempts, trace, payload_hash, failed_at,
  first_failed_at, coalesce(length(value), 0) AS bytes, state, replays, state_by, state_reason, state_at"""


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters; what is empty or None does not narrow."""

    states: Sequence[str] = ()
    flow: str | None = None
    failure_class: str | None = None


class Queries:
    """The reading side of the ledger. Nothing can be written through it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @classmethod
    def open(cls, path: Path) -> Queries:
        """Raises StateError when there is no ledger, or one of another version."""
        return cls(open_for_reading(path))

    def close(self) -> None:
        self._db.close()

    def runs(self, states: Sequence[str] = (), flow: str | None = None, limit: int = 20) -> list[Row]:
        """The runs that moved last, newest first."""
        where, values = _where([("state", states), ("flow", _one(flow))])
        rows = self._all(f"SELECT * FROM runs{where} ORDER BY updated_at DESC, run LIMIT ?", [*values, limit])
        return [_parsed(row) for row in rows]

    def count_runs(self, states: Sequence[str] = (), flow: str | None = None) -> int:
        where, values = _where([("state", states), ("flow", _one(flow))])
        return int(self._all(f"SELECT count(*) AS n FROM runs{where}", values)[0]["n"])

    def run(self, run: str) -> Row | None:
        return next((_parsed(row) for row in self._all("SELECT * FROM runs WHERE run = ?", [run])), None)

    def find_runs(self, text: str, limit: int = 20) -> list[Row]:
        """The runs whose id is `text`, else whose business key it is, else whose id begins with it."""
        exact = self.run(text)
        if exact:
            return [exact]
        by_route = self._all("SELECT * FROM runs WHERE route = ? ORDER BY started_at LIMIT ?", [text, limit])
        return [_parsed(row) for row in by_route or self._beginning("runs", "run", text, limit)]

    def transitions(self, run: str) -> list[Row]:
        """A run's transitions in order."""
        return self._all("SELECT * FROM transitions WHERE run = ? ORDER BY sequence", [run])

    def letters(self, which: LetterFilter) -> list[Row]:
        """Dead letters, oldest first, without their payloads (`bytes` long) and stacks."""
        where, values = _where(
            [("state", which.states), ("flow", _one(which.flow)), ("failure_class", _one(which.failure_class))]
        )
        return self._all(f"SELECT {_BRIEF} FROM letters{where} ORDER BY failed_at, letter", values)

    def letter(self, letter: str) -> Row | None:
        return next(iter(self._all("SELECT * FROM letters WHERE letter = ?", [letter])), None)

    def find_letters(self, prefix: str, limit: int = 20) -> list[Row]:
        """The letters whose id is or begins with `prefix`."""
        return self._beginning("letters", "letter", prefix, limit)

    def letters_of(self, run: str) -> list[Row]:
        return self._all("SELECT * FROM letters WHERE run = ? ORDER BY failed_at", [run])

    def tasks(self, states: Sequence[str] = (), flow: str | None = None) -> list[Row]:
        """Human tasks; what is due first comes first."""
        where, values = _where([("state", states), ("flow", _one(flow))])
        return self._all(f"SELECT * FROM tasks{where} ORDER BY due_at IS NULL, due_at, opened_at, task", values)

    def task(self, task: str) -> Row | None:
        return next(iter(self._all("SELECT * FROM tasks WHERE task = ?", [task])), None)

    def find_tasks(self, prefix: str, limit: int = 20) -> list[Row]:
        """The tasks whose id is or begins with `prefix`."""
        return self._beginning("tasks", "task", prefix, limit)

    def tasks_of(self, run: str) -> list[Row]:
        return self._all("SELECT * FROM tasks WHERE run = ? ORDER BY opened_at", [run])

    def count_unreadable(self) -> int:
        return int(self._all("SELECT count(*) AS n FROM unreadable", [])[0]["n"])

    def _beginning(self, table: str, column: str, prefix: str, limit: int) -> list[Row]:
        if not prefix:
            return []
        sql = f"SELECT * FROM {table} WHERE substr({column}, 1, ?) = ? ORDER BY {column} LIMIT ?"
        return self._all(sql, [len(prefix), prefix, limit])

    def _all(self, sql: str, values: Sequence[Any]) -> list[Row]:
        return [dict(row) for row in self._db.execute(sql, values)]


def _one(value: str | None) -> Sequence[str]:
    return () if value is None else (value,)


def _where(conditions: Iterable[tuple[str, Sequence[str]]]) -> tuple[str, list[str]]:
    parts: list[str] = []
    values: list[str] = []
    for column, allowed in conditions:
        if allowed:
            parts.append(f"{column} IN ({', '.join('?' * len(allowed))})")
            values.extend(allowed)
    return (" WHERE " + " AND ".join(parts) if parts else ""), values


def _parsed(run: Row) -> Row:
    return {**run, "dedupe": json.loads(run["dedupe"])}
