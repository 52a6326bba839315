"""The ledger: a projection of the shared topics into one SQLite file. It may be deleted at any time; it is rebuilt.

Rows and read positions are written in one transaction, so a crash repeats nothing and leaves nothing out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType

from handrail.contracts import Contracts
from handrail.errors import StateError

from handrail_console.projection import Record, project
from handrail_console.schema import APPLICATION, SCHEMA, VERSION

BUSY_S = 10.0
Positions = dict[tuple[str, int], int]


class Ledger:
    """The writing side. One thread uses it; a second process may, because every batch asks the file for its positions."""

    def __init__(self, path: Path, contracts: Contracts) -> None:
        """Open the file, or make it. Raises StateError when it can't be written or is of another version."""
        self.path = path
        self._contracts = contracts
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        with _told(self.path):
            if _is_new(self._db):
                self._db.execute("PRAGMA journal_mode = WAL")
                try:
                    self._db.executescript(SCHEMA)
                except sqlite3.OperationalError:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    if _is_new(self._db):  # else another console was faster
                        raise
            check_version(self._db, self.path)
            # WAL: after a power cut the last batches may be missing, together with their positions: they are read again.
            self._db.execute("PRAGMA synchronous = NORMAL")

    def positions(self) -> Positions:
        """The next offset of each (topic, partition) that was read."""
        with _told(self.path):
            return self._positions()

    def _positions(self) -> Positions:
        rows = self._db.execute('SELECT topic, "partition", next FROM positions')
        return {(topic, partition): following for topic, partition, following in rows}

    def apply(self, records: Sequence[Record]) -> int:
        """Write a batch and its positions in one transaction. Gives how many records were new.

        Records below the position of their partition are skipped. Raises StateError (nothing was written then).
        """
        if not records:
            return 0
        applied = 0
        with _told(self.path), _transaction(self._db):
            positions = self._positions()
            for record in records:
                place = (record.topic, record.partition)
                if record.offset < positions.get(place, 0):
                    continue
                for change in project(self._contracts, record):
                    self._db.execute(change.sql, change.values)
                positions[place] = record.offset + 1
                applied += 1
            self._db.executemany(
                'INSERT OR REPLACE INTO positions (topic, "partition", next) VALUES (?, ?, ?)',
                [(*place, following) for place, following in positions.items()],
            )
        return applied

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that can't write, with rows by name. Raises StateError when there is no ledger yet."""
    if not path.exists():
        raise StateError(f"no ledger yet at {path}: is console running? `handrail status` tells")
    with _told(path):
        db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_S, isolation_level=None)
    try:
        with _told(path):
            if _is_new(db):
                raise StateError(f"no ledger yet at {path}: console is just making it; try again")
            check_version(db, path)
    except BaseException:
        db.close()
        raise
    db.row_factory = sqlite3.Row
    return db


def check_version(db: sqlite3.Connection, path: Path) -> None:
    """Raises StateError when the file is no ledger, or one of another build."""
    if _pragma(db, "application_id") != APPLICATION:
        raise StateError(f"{path} is not a ledger of Handrail; name another file with HANDRAIL_LEDGER")
    version = _pragma(db, "user_version")
    if version != VERSION:
        raise StateError(
            f"the ledger {path} is of version {version}, this build needs {VERSION}: stop console, delete the file and "
            "its -wal and -shm, start console; it is rebuilt from the topics"
        )


def _is_new(db: sqlite3.Connection) -> bool:
    with closing(db.execute("SELECT count(*) FROM sqlite_schema")) as cursor:
        return bool(cursor.fetchone()[0] == 0)


def _pragma(db: sqlite3.Connection, name: str) -> int:
    with closing(db.execute(f"PRAGMA {name}")) as cursor:
        return int(cursor.fetchone()[0])


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk may have rolled it back already
            db.execute("ROLLBACK")
        raise


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell what SQLite and the file system say in words of ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise StateError(f"the ledger {path} can't be used: {error}. {_advice(str(error))}") from error
    except OSError as error:
        raise StateError(
            f"the ledger {path} can't be used: {error.strerror or error}. {_advice(str(error))}"
        ) from error


def _advice(said: str) -> str:
    if "full" in said or "No space" in said:
        return "Free some space on its disk; console goes on where it was"
    if "readonly" in said or "read-only" in said.lower() or "unable to open" in said or "Permission" in said:
        return "Make its folder writable for this user, or name another file with HANDRAIL_LEDGER"
    if "locked" in said:
        return "Another process holds it; is something else than console writing to it?"
    return "It may be deleted while console is stopped: it is rebuilt from the topics"
