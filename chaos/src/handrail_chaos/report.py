"""What a run has shown: figures, what is wrong, the last line, and the exit. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from handrail_chaos.checker import Verdict, Wrong

ENOUGH = 0.95
"""Of the events so many must have been acknowledged, or the run has shown nothing."""


@dataclass(frozen=True, slots=True)
class Report:
    """One run. `events` are distinct events that were sent, `acked` those of them that Kafka has acknowledged.

    `kills` are ends by SIGKILL that were seen. `faults` counts by kind what was done, `struck` what was seen of it,
    `exits` how processes ended (`decision: 3`), `missed` the fault points that were never hit.
    """

    seed: int
    events: int
    acked: int
    records: int
    kills: int
    rebalances: int
    hit: int
    places: int
    missed: tuple[str, ...]
    verdict: Verdict
    faults: Mapping[str, int] = field(default_factory=dict)
    struck: Mapping[str, int] = field(default_factory=dict)
    exits: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def line(self) -> str:
        """The last line."""
        return (
            f"CHAOS events={self.events} acked={self.acked} kills={self.kills} rebalances={self.rebalances} "
            f"faultpoints={self.hit}/{self.places} {self.verdict.line()} seed={self.seed}"
        )

    def failures(self) -> list[str]:
        """Why the run has failed; nothing when all is right."""
        found = [
            f"{check}: {len(wrongs)}"
            for check, wrongs in (
                ("lost", self.verdict.lost),
                ("twice", self.verdict.twice),
                ("torn", self.verdict.torn),
                ("order", self.verdict.order),
            )
            if wrongs
        ]
        if self.acked < ENOUGH * self.events or self.acked == 0:
            found.append(f"only {self.acked} of {self.events} events were acknowledged: that shows nothing")
        if self.missed:
            found.append(f"never hit: {', '.join(self.missed)}")
        return found

    @property
    def holds(self) -> bool:
        """Whether all is right."""
        return not self.failures()

    def wrongs(self) -> list[tuple[str, Wrong]]:
        """Everything that is wrong, by check."""
        return [(name, wrong) for name in ("lost", "twice", "torn", "order") for wrong in getattr(self.verdict, name)]

    def json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "holds": self.holds, "failures": self.failures(), "line": self.line()}
