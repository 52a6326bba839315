"""The ledger: a projection of the shared topics into SQL. It may be made anew at any time (`handrail_console.rebuilding`).

Rows and read positions are written in one transaction, so a crash repeats nothing and leaves nothing out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from handrail.clock import Clock, SystemClock
from handrail.contracts import Contracts
from handrail.errors import StateError
from sqlalchemy import Connection, Engine, select, update

from handrail_console import backlog, schema
from handrail_console.backlog import Backlog
from handrail_console.database import Place, told
from handrail_console.migrate import current, migrate, require_current
from handrail_console.projection import Change, Record, project
from handrail_console.writing import Writing

BATCH = 10_000
"""So many records for one transaction: when there is much to catch up with, most runs are in it with all they did."""
Where = tuple[str, int]
"""A topic and a partition of it."""
Positions = Mapping[Where, int]


class Rebuilt(Exception):
    """The ledger was made anew meanwhile: nothing was written; read on from its positions."""


class Ledger:
    """The writing side. One thread uses it; a second process may, because every batch asks the ledger for its positions."""

    def __init__(self, place: Place | Path | str, contracts: Contracts, clock: Clock | None = None) -> None:
        """Open the ledger, or make it.

        Raises StateError when it can't be written or is of a newer build, Unreachable when its server does not answer.
        """
        self.place = place if isinstance(place, Place) else Place.of(place)
        self._contracts = contracts
        self._clock = clock or SystemClock()
        self._writing = Writing(self.place.url.get_backend_name())
        with told(self.place):
            if self.place.file:
                self.place.file.parent.mkdir(parents=True, exist_ok=True)
            self._engine = self.place.engine()
        try:
            with told(self.place):
                migrate(self._engine, self.place)
                with self._engine.begin() as connection:
                    self._id = self._identified(connection)
        except BaseException:
            self._engine.dispose()
            raise

    def _identified(self, connection: Connection) -> str:
        found = connection.scalar(select(schema.LEDGER.c.id))
        if found is None:
            found = str(uuid4())
            connection.execute(
                schema.LEDGER.insert(), {"id": found, "made_at": self._clock.now(), "seen_at": self._clock.now()}
            )
        return found

    @property
    def engine(self) -> Engine:
        """For what is done to a whole ledger at once."""
        return self._engine

    def positions(self) -> Positions:
        """The next offset of each topic and partition that was read. From now on, this is the ledger that is written to."""
        with told(self.place), self._engine.begin() as connection:
            self._id = self._identified(connection)
            return _positions(connection)

    def apply(self, records: Sequence[Record], reached: Positions | None = None, highs: Positions | None = None) -> int:
        """Write a batch and its positions in one transaction. Gives how many records were new.

        Records below the position of their partition are skipped. `reached` are offsets below which nothing is left to
        read (what stands there besides is no record), `highs` where partitions end. Raises StateError, Unreachable or
        Rebuilt (nothing was written then).
        """
        if not records and reached is None:
            return 0
        with told(self.place), self._engine.begin() as connection:
            self._require_same(connection)
            before = _positions(connection)
            after = dict(before)
            changes: list[Change] = []
            applied = 0
            for record in records:
                where = (record.topic, record.partition)
                if record.offset < after.get(where, 0):
                    continue
                changes += project(self._contracts, record)
                after[where] = record.offset + 1
                applied += 1
            self._writing.write(connection, changes)
            self._write_positions(connection, before, after, reached or {}, highs or {})
        return applied

    def backlog(self) -> Backlog:
        """What waits for people by now. Raises StateError or Unreachable."""
        with told(self.place), self._engine.begin() as connection:
            return backlog.asked(connection)

    def _require_same(self, connection: Connection) -> None:
        """Keeps others from writing until the end of the transaction: SQLite by BEGIN IMMEDIATE, PostgreSQL by this row."""
        now = self._clock.now()
        same = connection.execute(update(schema.LEDGER).where(schema.LEDGER.c.id == self._id).values(seen_at=now))
        if same.rowcount != 1:
            raise Rebuilt

    def _write_positions(
        self,
        connection: Connection,
        before: Positions,
        after: dict[Where, int],
        reached: Positions,
        highs: Positions,
    ) -> None:
        for where, following in reached.items():
            after[where] = max(following, after.get(where, 0))
        rows = [
            {"topic": topic, "partition": partition, "next": following, "high": highs.get((topic, partition))}
            for (topic, partition), following in after.items()
            if highs or before.get((topic, partition)) != following
        ]
        self._writing.put(connection, "positions", rows)

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _positions(connection: Connection) -> Positions:
    table = schema.POSITIONS.c
    rows = connection.execute(select(table.topic, table.partition, table.next))
    return {(topic, partition): following for topic, partition, following in rows}


def open_for_reading(place: Place, within_s: float | None = None) -> Engine:
    """A ledger that nothing can be written to; `within_s` as Place.engine has it.

    Raises StateError when there is none yet, or one of another build.
    """
    none = f"no ledger yet at {place}: is console running? `handrail status` tells"
    if place.file and not place.file.exists():
        raise StateError(none)
    engine = place.engine(read_only=True, within_s=within_s)
    try:
        with told(place), closing(engine.connect()) as connection:
            found = current(connection, place)
            if found is None:
                raise StateError(none)
            require_current(found, place)
    except BaseException:
        engine.dispose()
        raise
    return engine
