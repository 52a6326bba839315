"""Making the ledger anew from the topics while console and readers go on: beside it first, then in one transaction.

Console sees by the ledger's id that this happened, and reads on from the new positions (`handrail_console.ledger.Rebuilt`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from uuid import uuid4

from handrail.clock import Clock, SystemClock
from handrail.contracts import Contracts
from handrail.errors import StateError
from sqlalchemy import Connection, Delete, MetaData, Table, and_, delete, false, insert, or_, select, text

from handrail_console import schema
from handrail_console.database import Place, told
from handrail_console.ledger import BATCH, Ledger, Positions
from handrail_console.source import Source

READ_S = 0.5
_ASIDE = "aside"
_LOCK = 0x48524C48

Progress = Callable[[int, int], None]
"""Told how many offsets were read, of how many."""


async def rebuild(
    place: Place,
    contracts: Contracts,
    connect: Callable[[Positions], Awaitable[Source]],
    progress: Progress,
    clock: Clock | None = None,
) -> Positions:
    """Read every topic from its beginning to where it ends now, and put the result in the ledger's place.

    Until the end, which is one transaction, the ledger stays as it is. Gives its new positions. Raises StateError (another
    rebuild is under way, or the ledger can't be written) and Unreachable; then nothing was changed.
    """
    clock = clock or SystemClock()
    Ledger(place, contracts, clock).close()  # there to be put into, in the newest schema
    with _room_for(place) as aside, Ledger(aside, contracts, clock) as fresh:
        async with await connect({}) as source:
            await _fill(fresh, source, progress)
        positions = fresh.positions()
        fresh.close()
        with told(place):
            _put(place, aside, clock.now(), source.beginnings)
    return positions


async def _fill(fresh: Ledger, source: Source, progress: Progress) -> None:
    beginnings, ends = source.beginnings, await source.ends()
    whole = sum(ends[where] - beginnings[where] for where in ends)
    reached: Positions = beginnings
    while any(reached[where] < end for where, end in ends.items()):
        read = await source.read(BATCH, READ_S)
        fresh.apply(read.records, read.reached, read.highs)
        reached = read.reached
        progress(sum(min(reached[where], end) - beginnings[where] for where, end in ends.items()), whole)
    progress(whole, whole)


@contextmanager
def _room_for(place: Place) -> Iterator[Place]:
    """An empty place beside the ledger, for one rebuild at a time; it is cleared away afterwards."""
    file = place.file
    if file is not None:
        aside = Place.of(file.with_name(f"{file.name}.rebuild"))
        with _only_one(file.with_name(f"{file.name}.rebuild.lock"), place):
            try:
                _remove(aside)
                yield aside
            finally:
                _remove(aside)
        return
    aside = replace(place, schema=f"{place.schema}_rebuild")
    engine = place.engine()
    try:
        with told(place), engine.connect() as connection:
            if not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK}):
                raise StateError(f"another rebuild of the ledger {place} is under way: wait for it")
            connection.commit()
            try:
                _drop(connection, aside)
                yield aside
            finally:
                _drop(connection, aside)
    finally:
        engine.dispose()


@contextmanager
def _only_one(lock: Path, place: Place) -> Iterator[None]:
    with lock.open("a") as held:
        try:
            flock(held, LOCK_EX | LOCK_NB)
        except OSError:
            raise StateError(f"another rebuild of the ledger {place} is under way: wait for it") from None
        yield


def _remove(aside: Place) -> None:
    for end in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            Path(f"{aside.file}{end}").unlink()


def _drop(connection: Connection, aside: Place) -> None:
    connection.execute(text(f'DROP SCHEMA IF EXISTS "{aside.schema}" CASCADE'))
    connection.commit()


def _outdated(table: Table, beginnings: Positions, beside: str) -> Delete:
    """What goes from the ledger. Kept is what a topic no longer has, where without it the measures would come to look better.

    Counts from before where `stats` begins by now: that topic has a day of them only. Earlier failures of the letters
    that are there (`beside`): `dead-letters` is compacted, so it has the newest of each. And what alerts are over:
    `alerts` keeps them for a month.
    """
    if table is schema.ALERTS:
        again = table.to_metadata(MetaData(), schema=beside).alias("again")
        same = (again.c.alert == table.c.alert, again.c.since == table.c.since)
        read_again = select(again.c.alert).where(*same).correlate(table).exists()
        return delete(table).where(or_(table.c.state == "FIRING", read_again))
    if table is schema.STAGE_COUNTS:
        counts = schema.STAGE_COUNTS.c
        return delete(table).where(
            or_(
                false(),
                *(
                    and_(counts.partition == partition, counts.offset >= beginning)
                    for (topic, partition), beginning in beginnings.items()
                    if topic == "stats"
                ),
            )
        )
    if table is schema.FAILURES:
        there = table.to_metadata(MetaData(), schema=beside).alias("there")
        of_it, here = there.c.letter == table.c.letter, there.c.generation <= table.c.generation
        known = select(there.c.letter).where(of_it).correlate(table)
        return delete(table).where(or_(~known.exists(), known.where(here).exists()))
    return delete(table)


def _put(place: Place, aside: Place, now: int, beginnings: Positions) -> None:
    """Everything of the ledger is replaced by what is aside, in one transaction; views of others stay."""
    engine = place.engine()
    beside = _ASIDE if aside.file else aside.schema
    try:
        with engine.connect() as connection:
            if aside.file:
                driver = connection.connection.driver_connection
                driver.execute(  # type: ignore[union-attr]
                    f"ATTACH ? AS {_ASIDE}", (str(aside.file),)
                )
            with connection.begin():
                if not aside.file:  # as every batch of console does, so that neither sees half of the other
                    connection.execute(select(schema.LEDGER).with_for_update())
                for table in schema.METADATA.tables.values():
                    if table is not schema.LEDGER:
                        there = table.to_metadata(MetaData(), schema=beside)
                        connection.execute(_outdated(table, beginnings, beside))
                        connection.execute(insert(table).from_select(list(table.c.keys()), select(there)))
                connection.execute(schema.LEDGER.update(), {"id": str(uuid4()), "made_at": now, "seen_at": now})
    finally:
        engine.dispose()
