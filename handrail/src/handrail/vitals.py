"""What a stage says of itself: made once a second by its own thread, read by any other (a health check never asks Kafka)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STARTING = "is starting"


@dataclass(frozen=True, slots=True)
class Vitals:
    """One stage at one moment. All ages in ms.

    `held` maps a partition to the flow version that it waits for, `lag` a partition to the records before its end (those
    that Kafka has told of). `waiting` are delayed records, `blocked` keys with more than their head waiting, `oldest` the
    age of the longest waiting record; `open` is what has a timer (in action: calls whose outcome is not known yet) and
    `open_oldest` its greatest age, as far as this process knows; `behind` is the age of the last record taken while there
    were more to take, `headroom` how much older it may be before its duplicates would not be known any more. `troubles`
    are further reasons for not being ready.
    """

    stage: str
    phase: str = "new"
    partitions: tuple[int, ...] = ()
    held: Mapping[int, str] = field(default_factory=dict)
    lag: Mapping[int, int] = field(default_factory=dict)
    waiting: int = 0
    blocked: int = 0
    oldest: int = 0
    open: int = 0
    open_oldest: int = 0
    behind: int = 0
    headroom: int = 0
    full: bool = False
    counters: Mapping[str, int] = field(default_factory=dict)
    troubles: tuple[str, ...] = ()

    def reasons(self) -> tuple[str, ...]:
        """Why it is not ready: nothing when it is. A member without partitions stands by, which is ready."""
        if self.phase == "new":
            return (STARTING,)
        found = [f"partition {partition} is paused: flow {what} is not here" for partition, what in self.held.items()]
        if self.phase in ("restore", "rewind"):
            found.append(f"{self.phase}: tables are brought up to date")
        return (*found, *self.troubles)
