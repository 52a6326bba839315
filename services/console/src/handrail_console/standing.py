"""How far the ledger is behind the topics: what `handrail ledger status` and `handrail runs list` say of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handrail_console.ledger import Positions, Where
from handrail_console.words import count, moment, span

Row = dict[str, Any]
SILENT_MS = 30_000
"""Console tells the ledger every 5 s that it has looked; silent for longer, it is stopped or stuck."""
BEHIND = 1_000
"""So many records to come are worth a word: a stage's batch is that large."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Lag in offsets (records, and the marks of transactions between them) by topic; `seen_at`: when console last looked.

    `now` in ms since the epoch. `asked`: the ends of the topics are of now, else of when console last looked.
    """

    lag: Mapping[str, int]
    seen_at: int
    now: int
    asked: bool

    @property
    def behind(self) -> int:
        return sum(self.lag.values())

    @property
    def silent(self) -> bool:
        return self.now - self.seen_at > SILENT_MS

    def warning(self) -> str | None:
        """One line for a person who reads on; None while all is well."""
        if self.silent:
            return (
                f"the ledger is as it was {span(self.now - self.seen_at)} ago: console has not looked since; "
                "`handrail status` tells whether it runs"
            )
        if self.behind > BEHIND:
            return f"the ledger is behind: {count(self.behind, 'record')} to come; handrail ledger status"
        return None


@dataclass(frozen=True, slots=True)
class Watchman:
    """Monitor, as the ledger knows it: `heard_at` is when it last spoke, None where it never did."""

    heard_at: int | None
    now: int

    @property
    def silent(self) -> bool:
        return self.heard_at is None or self.now - self.heard_at > SILENT_MS

    def warning(self) -> str | None:
        """One line for a person who would rely on it; None while it watches."""
        if self.heard_at is None:
            return "monitor was never heard: nobody watches; `handrail status` tells whether it runs"
        if self.silent:
            return (
                f"monitor silent since {moment(self.heard_at)} ({span(self.now - self.heard_at)} ago): nobody watches; "
                "`handrail status` tells whether it runs"
            )
        return None


def standing(rows: Sequence[Row], topics: Sequence[str], seen_at: int, now: int, ends: Positions | None) -> Standing:
    """From the rows of `positions`; `ends` are those that Kafka has just told, if it was asked."""
    known: dict[Where, int] = {(row["topic"], row["partition"]): row["next"] for row in rows}
    high = {(row["topic"], row["partition"]): row["high"] or row["next"] for row in rows} if ends is None else ends
    lag = dict.fromkeys(topics, 0)
    for where, end in high.items():
        if where[0] in lag:
            lag[where[0]] += max(0, end - known.get(where, 0))
    return Standing(lag, seen_at, now, ends is not None)
