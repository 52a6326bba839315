"""Time that passes when a test says so."""

from __future__ import annotations


class ManualClock:
    """A clock that stands still."""

    def __init__(self, now: int = 1_700_000_000_000) -> None:
        self._now = now

    def now(self) -> int:
        return self._now

    def advance(self, ms: int) -> None:
        """Let `ms` pass."""
        self._now += ms
