"""What a flow is for, in the figures that it declares: times until something is there, and amounts. Pure.

Kept apart from the four measures, which count what was done. The rules are in `migrations/versions/r0006_…`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from handrail_console.arithmetic import quantile, share

Row = Mapping[str, Any]
STANDINGS = ("done", "under_way", "at_risk", "given_up")


@dataclass(slots=True)
class Times:
    """Of one outcome: `took` has a time (ms) for each run that wants it, None where it is not there yet or was given up."""

    took: Counter[int | None] = field(default_factory=Counter)
    still_open: int = 0
    oldest_open_since: int | None = None
    given_up: int = 0
    not_wanted: int = 0
    promised: int = 0
    kept: int = 0

    def add(self, row: Row) -> None:
        """Rows of `outcome_times` that are alike, counted (`n`); `since` is the oldest of them."""
        n, took = row["n"], row["took_ms"]
        if row["came_to"] == "not_wanted":
            self.not_wanted += n
            return
        self.took[took] += n
        if row["within_ms"] is not None:
            self.promised += n
            self.kept += n if took is not None and took <= row["within_ms"] else 0
        if row["came_to"] == "given_up":
            self.given_up += n
        if row["came_to"] == "open":
            self.still_open += n
            self.oldest_open_since = min(row["since"], self.oldest_open_since or row["since"])

    def told(self) -> dict[str, Any]:
        """As JSON has it. What is open, or was given up, has kept no promise."""
        return {
            "reached": self.took.total() - self.took[None],
            "still_open": self.still_open,
            "oldest_open_since": self.oldest_open_since,
            "given_up": self.given_up,
            "not_wanted": self.not_wanted,
            "p50_ms": quantile(self.took, 50),
            "p95_ms": quantile(self.took, 95),
            "promised": self.promised,
            "kept": self.kept,
            "kept_share": share(self.kept, self.promised),
        }


@dataclass(slots=True)
class Amounts:
    """Of one outcome in one unit, by where the runs stand."""

    runs: int = 0
    sums: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Rows of `outcome_amounts`, counted (`n`) and added up by standing."""
        self.runs += row["n"]
        self.sums[row["standing"]] += row["amount"]

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"runs": self.runs, **{name: self.sums[name] for name in STANDINGS}}


@dataclass(slots=True)
class Purpose:
    """All outcomes of a flow, or of a part of it; amounts by name and unit."""

    times: dict[str, Times] = field(default_factory=dict)
    amounts: dict[tuple[str, str | None], Amounts] = field(default_factory=dict)

    def time(self, row: Row) -> None:
        self.times.setdefault(row["outcome"], Times()).add(row)

    def amount(self, row: Row) -> None:
        self.amounts.setdefault((row["outcome"], row["unit"]), Amounts()).add(row)

    def sorted_amounts(self) -> list[tuple[str, str | None, Amounts]]:
        """Each with its name and unit."""
        return sorted(
            ((name, unit, one) for (name, unit), one in self.amounts.items()), key=lambda one: (one[0], one[1] or "")
        )

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "times": [{"outcome": name, **one.told()} for name, one in sorted(self.times.items())],
            "amounts": [{"outcome": name, "unit": unit, **one.told()} for name, unit, one in self.sorted_amounts()],
        }
