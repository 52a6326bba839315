"""What a stage holds: a partition that is its own, and the work of one step until its commit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from handrail.outbox import Outbox
from handrail.pending import Pending
from handrail.spec import Spec
from handrail.tables import PartitionTables
from handrail.waiting import Waiting


@dataclass(slots=True)
class Owned:
    """One partition of the inbox that is ours. `held` names the flow version that it waits for."""

    partition: int
    tables: PartitionTables
    waiting: Waiting
    offset: int = 0
    held: str | None = None
    pending: Pending | None = None

    def begin(self) -> Pending:
        """This step's part of the partition."""
        if self.pending is None:
            self.pending = Pending(self.tables)
        return self.pending

    def end(self) -> None:
        """The step is over, committed or not."""
        self.pending = None
        self.tables.end_batch()


@dataclass(slots=True)
class Work:
    """What one step gathers until its commit."""

    outbox: Outbox
    now: int
    jobs: list[tuple[int, str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    spans: list[dict[str, Any]] = field(default_factory=list)


def queue_key(spec: Spec, sequence: int, key: bytes | None) -> str:
    """Which delayed records wait for each other: those of one key, or (without ordering) none."""
    return (key or b"").hex() if spec.ordering == "key" else str(sequence)
