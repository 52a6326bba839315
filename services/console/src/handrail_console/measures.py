"""The measures of a flow, of a segment of it or of a week: from the cases that the ledger's views give. Pure.

What a case is, and in which week it counts, is said in `migrations/versions/r0002_measures.py`; the views `measure_*` there
come to the same figures by flow, segment and week.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from handrail_console.arithmetic import quantile, share
from handrail_console.purpose import Purpose
from handrail_console.upkeep import Upkeep, Work

Row = Mapping[str, Any]
ALL = "all"
FINISHED = frozenset(("done", "done-by-hand", "rejected", "compensated", "cancelled"))
"""States in which a run needs nobody any more. A failed one is waited for."""


@dataclass(frozen=True, slots=True)
class Cases:
    """Rows of the views, those of the time asked for: one by one, but for what `n` counts: runs, failed, amounts, work."""

    runs: Sequence[Row]
    failed: Sequence[Row]
    recoveries: Sequence[Row]
    duplicates: Sequence[Row]
    by_hand: Sequence[Row]
    times: Sequence[Row]
    amounts: Sequence[Row]
    work: Sequence[Row]
    waiting: Sequence[Row]
    upkeep: Sequence[Row]


@dataclass(slots=True)
class Measures:
    """Of one flow, or of one `part` of it: a segment (`name=value`) or a week (its Monday). Times in ms.

    The four measures, and beside them what the flow is for and what it takes of people. `recovery` holds a time for each
    failure that counts, None for one that is still open. `weeks` has runs begun and failed by week, for the trend. Of a
    segment neither duplicates nor upkeep are known apart: `stopped` and `found` are None, `upkeep` is empty.
    """

    flow: str
    part: str | None
    runs: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    recovery: list[int | None] = field(default_factory=list)
    how: Counter[str] = field(default_factory=Counter)
    discarded: int = 0
    oldest_open_at: int | None = None
    stopped: int | None = 0
    found: int | None = 0
    by_hand: list[int | None] = field(default_factory=list)
    why: Counter[str] = field(default_factory=Counter)
    purpose: Purpose = field(default_factory=Purpose)
    work: Work = field(default_factory=Work)
    upkeep: Upkeep = field(default_factory=Upkeep)
    weeks: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        return sum(n for state, n in self.runs.items() if state in FINISHED)

    @property
    def still_open(self) -> int:
        return sum(took is None for took in self.recovery)

    def count(self, week: str, begun: int = 0, failed: int = 0) -> None:
        """Add to a week of the trend."""
        before = self.weeks.get(week, (0, 0))
        self.weeks[week] = before[0] + begun, before[1] + failed

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "flow": self.flow,
            "part": self.part,
            "runs": {"begun": self.runs.total(), "finished": self.finished, "by_state": dict(self.runs)},
            "failed_runs": {"all": self.failed.total(), "by_class": dict(self.failed)},
            "time_to_recovery": {
                "failures": len(self.recovery) + self.discarded,
                "recovered": len(self.recovery) - self.still_open,
                "still_open": self.still_open,
                "discarded": self.discarded,
                "oldest_open_at": self.oldest_open_at,
                "by": dict(self.how),
                "p50_ms": quantile(self.recovery, 50),
                "p95_ms": quantile(self.recovery, 95),
            },
            "duplicate_prevention": {
                "stopped": self.stopped,
                "found_later": self.found,
                "success": share(self.stopped, (self.stopped or 0) + (self.found or 0)),
            },
            "manual_fallback": {
                "by_hand": len(self.by_hand),
                "share": share(len(self.by_hand), self.finished),
                "why": dict(self.why),
                "p50_ms": quantile(self.by_hand, 50),
                "p95_ms": quantile(self.by_hand, 95),
            },
            "outcomes": self.purpose.told(),
            "work": self.work.told(),
            "upkeep": None if self.stopped is None else self.upkeep.told(),
            "trend": [
                {"week": week, "runs": runs, "failed": failed} for week, (runs, failed) in sorted(self.weeks.items())
            ],
        }


def measure(cases: Cases, by: str | None) -> list[Measures]:
    """The measures of each flow; `by` is None, `segment` or `week`. In the order of flow and part."""
    groups = _Groups(by)
    for rows, add in (
        (cases.runs, _run),
        (cases.failed, _failure),
        (cases.recoveries, _recovery),
        (cases.duplicates, _duplicates),
        (cases.by_hand, _by_hand),
        (cases.times, lambda group, row: group.purpose.time(row)),
        (cases.amounts, lambda group, row: group.purpose.amount(row)),
        (cases.work, lambda group, row: group.work.add(row)),
        (cases.waiting, lambda group, row: group.upkeep.wait(row)),
        (cases.upkeep, lambda group, row: group.upkeep.add(row)),
    ):
        for row, group in groups.of(rows):
            add(group, row)
    return groups.sorted()


class _Groups:
    """The measures that rows belong to, made as they come."""

    def __init__(self, by: str | None) -> None:
        self._by = by
        self._made: dict[tuple[str, str], Measures] = {}

    def of(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Measures]]:
        """Each row that counts, with its group."""
        for row in rows:
            segment = row.get("segment", ALL)
            if (segment == ALL) != (self._by == "segment"):
                yield row, self._group(row["flow"], segment, row["week"])

    def _group(self, flow: str, segment: str, week: str) -> Measures:
        part = {"segment": segment, "week": week}.get(self._by or "")
        made = self._made.setdefault((flow, part or ""), Measures(flow, part))
        if self._by == "segment":  # a duplicate is stopped before anybody has read what it is about
            made.stopped = made.found = None
        return made

    def sorted(self) -> list[Measures]:
        return [self._made[key] for key in sorted(self._made)]


def _run(group: Measures, row: Row) -> None:
    group.runs[row["state"]] += row["n"]
    group.count(row["week"], begun=row["n"])


def _failure(group: Measures, row: Row) -> None:
    group.failed[row["failure_class"]] += row["n"]
    group.count(row["week"], failed=row["n"])


def _recovery(group: Measures, row: Row) -> None:
    if row["discarded_at"] is not None:
        group.discarded += 1
        return
    group.recovery.append(row["took_ms"])
    if row["took_ms"] is not None:
        group.how[row["how"]] += 1
    elif group.oldest_open_at is None or row["failed_at"] < group.oldest_open_at:
        group.oldest_open_at = row["failed_at"]


def _duplicates(group: Measures, row: Row) -> None:
    group.stopped = (group.stopped or 0) + row["stopped"]
    group.found = (group.found or 0) + row["found"]


def _by_hand(group: Measures, row: Row) -> None:
    group.by_hand.append(row["took_ms"])
    group.why[row["why"]] += 1
