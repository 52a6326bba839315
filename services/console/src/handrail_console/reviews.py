"""When flows were reviewed, and when they should be again. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Review:
    """A flow and its newest review, a row of the audit. Times in ms; `every_ms` is None where its file asks for none."""

    flow: str
    owner: str | None
    every_ms: int | None
    first_run_at: int | None
    last: Row | None

    @property
    def due_at(self) -> int | None:
        """Counted from the last review, else from the flow's first run; None where there is neither, or none is asked for."""
        since = self.last["at"] if self.last else self.first_run_at
        return None if self.every_ms is None or since is None else since + self.every_ms

    def late(self, now: int) -> bool:
        return self.due_at is not None and self.due_at < now

    def told(self, now: int) -> Row:
        """As JSON has it."""
        names = ("by", "reason", "minutes", "at")
        return {
            "flow": self.flow,
            "owner": self.owner,
            "every_ms": self.every_ms,
            "last": {name: self.last[name] for name in names} if self.last else None,
            "due_at": self.due_at,
            "late": self.late(now),
        }
