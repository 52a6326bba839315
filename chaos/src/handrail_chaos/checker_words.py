"""What the parts of the checker say: a named wrong, and lists of them by kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Check(StrEnum):
    """Which promise is broken."""

    LOST = "lost"
    TWICE = "twice"
    TORN = "torn"
    ORDER = "order"


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that must not be: the event, stage, run or record that it is about, and why."""

    name: str
    why: str


@dataclass(slots=True)
class Findings:
    """Wrongs as they are found."""

    by_check: dict[Check, list[Wrong]] = field(default_factory=lambda: {check: [] for check in Check})

    def lost(self, name: str, why: str) -> None:
        """Something that was acknowledged is nowhere, or not handled."""
        self.by_check[Check.LOST].append(Wrong(name, why))

    def twice(self, name: str, why: str) -> None:
        """Something happened more than once."""
        self.by_check[Check.TWICE].append(Wrong(name, why))

    def torn(self, name: str, why: str) -> None:
        """Parts that belong together are not together."""
        self.by_check[Check.TORN].append(Wrong(name, why))

    def order(self, name: str, why: str) -> None:
        """Something came before what was first."""
        self.by_check[Check.ORDER].append(Wrong(name, why))
