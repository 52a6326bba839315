"""Reading the books of the sandbox: what was called, and what really happened. Needs no server."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handrail_sandbox.schema import open_for_reading

MOST = 10_000
"""No page of calls or effects is longer."""


@dataclass(frozen=True, slots=True)
class BookedEffect:
    """An effect as the books have it. `call` is the number of the call that made it; `at` is ms since the epoch."""

    id: int
    at: int
    system: str
    kind: str
    reference: str
    amount_minor: int | None
    currency: str | None
    idempotency_key: str | None
    call: int


class Books:
    """A reader of the books' SQLite file. Safe beside a running server and after a killed one.

    Raises BooksError when there is no such file or it is something else.
    """

    def __init__(self, path: Path) -> None:
        self._connection = open_for_reading(path)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> Books:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def effects_by_reference(self, system: str = "billing", kind: str = "invoice") -> dict[str, list[BookedEffect]]:
        """Every effect of one kind, by its reference: more than one in a list is a thing done twice."""
        found: dict[str, list[BookedEffect]] = {}
        for row in self._connection.execute(
            "SELECT * FROM effects WHERE system = ? AND kind = ? ORDER BY id", (system, kind)
        ):
            found.setdefault(row["reference"], []).append(BookedEffect(**dict(row)))
        return found

    def duplicates(self, system: str = "billing", kind: str = "invoice") -> dict[str, list[BookedEffect]]:
        """The references that have more than one effect of this kind."""
        by_reference = self.effects_by_reference(system, kind)
        return {reference: effects for reference, effects in by_reference.items() if len(effects) > 1}

    def calls(self, **filters: Any) -> list[dict[str, Any]]:
        """Calls in the order they came; see `page`."""
        return page(self._connection, "calls", filters)

    def effects(self, **filters: Any) -> list[dict[str, Any]]:
        """Effects in the order they happened; see `page`."""
        return page(self._connection, "effects", filters)

    def summary(self) -> dict[str, Any]:
        """What happened at each system, in numbers; see `summary`."""
        return summary(self._connection)


FILTERS: Mapping[str, frozenset[str]] = {
    "calls": frozenset(
        {"system", "operation", "method", "reference", "idempotency_key", "fault", "ending", "status", "traceparent"}
    ),
    "effects": frozenset({"system", "kind", "reference", "idempotency_key", "call"}),
}


def page(connection: sqlite3.Connection, table: str, filters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of `calls` or `effects` in order, equal to every filter.

    `after` (an id) and `limit` (at most MOST) turn the pages. Raises ValueError for a filter that the table has not.
    """
    given = dict(filters)
    after, limit = int(given.pop("after", 0)), min(int(given.pop("limit", MOST)), MOST)
    unknown = sorted(set(given) - FILTERS[table])
    if unknown:
        raise ValueError(
            f"no filter {', '.join(unknown)}; {table} can be filtered by {', '.join(sorted(FILTERS[table]))}"
        )
    where = "".join(f" AND {name} = ?" for name in given)
    rows = connection.execute(
        f"SELECT * FROM {table} WHERE id > ?{where} ORDER BY id LIMIT ?", (after, *given.values(), limit)
    )
    return [dict(row) for row in rows]


def summary(connection: sqlite3.Connection) -> dict[str, Any]:
    """By system: calls, their statuses and faults, effects by kind with their sums, and references done twice."""
    systems: dict[str, dict[str, Any]] = {}
    with _one_view(connection):
        for system, fault, ending, status, replayed, count in connection.execute(
            "SELECT system, fault, ending, status, replayed, count(*) FROM calls GROUP BY 1, 2, 3, 4, 5"
        ):
            entry = _entry(systems, system)
            entry["calls"] += count
            _add(entry["statuses"], ending if status is None else str(status), count)
            if fault is not None:
                _add(entry["faults"], fault, count)
            entry["replayed"] += count * replayed
        for system, kind, references, count, amount in connection.execute(
            "SELECT system, kind, count(DISTINCT reference), count(*), sum(amount_minor) FROM effects GROUP BY 1, 2"
        ):
            _entry(systems, system)["effects"][kind] = {
                "count": count,
                "references": references,
                "amount_minor": amount,
                "doubled": _doubled(connection, system, kind),
            }
    return {"systems": systems}


def _doubled(connection: sqlite3.Connection, system: str, kind: str) -> int:
    query = """SELECT count(*) FROM (SELECT 1 FROM effects WHERE system = ? AND kind = ?
               GROUP BY reference HAVING count(*) > 1)"""
    return int(connection.execute(query, (system, kind)).fetchone()[0])


def _entry(systems: dict[str, dict[str, Any]], system: str) -> dict[str, Any]:
    return systems.setdefault(system, {"calls": 0, "statuses": {}, "faults": {}, "replayed": 0, "effects": {}})


def _add(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = counts.get(name, 0) + count


@contextmanager
def _one_view(connection: sqlite3.Connection) -> Iterator[None]:
    """Let several queries see one state of the books."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")
