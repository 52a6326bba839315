"""What a flow takes of people: minutes of work, waiting for them, and its upkeep (changes, reviews, incidents). Pure.

The rules are in `migrations/versions/r0006_purpose_and_upkeep.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from handrail_console.arithmetic import quantile

Row = Mapping[str, Any]


@dataclass(slots=True)
class Work:
    """What people did about runs, by what they ordered: how many orders, how many of them tell minutes, and these."""

    orders: Counter[str] = field(default_factory=Counter)
    told_by: int = 0
    minutes: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Rows of `measured_work`, counted (`n`, `told`) and added up."""
        self.orders[row["what"]] += row["n"]
        self.told_by += row["told"]
        if row["told"]:
            self.minutes[row["what"]] += row["minutes"]

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "orders": self.orders.total(),
            "told": self.told_by,
            "minutes": self.minutes.total(),
            "orders_by_what": dict(self.orders),
            "minutes_by_what": dict(self.minutes),
        }


@dataclass(slots=True)
class Upkeep:
    """`waited` has the time (ms) that each owner's tasks waited, None while one is open; `incidents` how long each lasted."""

    changes: int = 0
    reviews: int = 0
    review_minutes: int = 0
    incidents: list[int | None] = field(default_factory=list)
    waited: dict[str, list[int | None]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """A row of `measured_upkeep`."""
        match row["what"]:
            case "change":
                self.changes += 1
            case "review":
                self.reviews += 1
                self.review_minutes += row["minutes"] or 0
            case "incident":
                self.incidents.append(row["took_ms"])

    def wait(self, row: Row) -> None:
        """A row of `measured_waiting`."""
        self.waited.setdefault(row["owner"], []).append(row["took_ms"])

    @property
    def still_open(self) -> int:
        return sum(took is None for took in self.incidents)

    @property
    def incident_ms(self) -> int:
        """How long the incidents lasted that are over."""
        return sum(took or 0 for took in self.incidents)

    def any(self) -> bool:
        """Whether there was anything."""
        return bool(self.changes or self.reviews or self.incidents or self.waited)

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "changes": self.changes,
            "reviews": self.reviews,
            "review_minutes": self.review_minutes,
            "incidents": {"all": len(self.incidents), "still_open": self.still_open, "lasted_ms": self.incident_ms},
            "waiting": [
                {
                    "owner": owner,
                    "tasks": len(took),
                    "still_open": sum(one is None for one in took),
                    "p50_ms": quantile(took, 50),
                    "p95_ms": quantile(took, 95),
                }
                for owner, took in sorted(self.waited.items())
            ],
        }
