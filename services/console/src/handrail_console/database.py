"""Where a ledger is: a SQLite file or a PostgreSQL database; how each is opened, and what its errors mean to a person."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handrail.errors import ConfigError, HandrailError, StateError, Unreachable
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import QueuePool

BUSY_S = 60.0
"""How long a writer waits for another one: a rebuild's last step takes seconds on a large ledger."""
CONNECT_S = 8
LOST_S = 20
"""So long a connection to PostgreSQL may be silent before it is lost. Without it a network that swallows everything, and a
server that was switched off, would hold up the writer for as long as the system likes: for hours, or for ever."""
STEPS = 10_000
"""So many steps of SQLite's machine (about 0.1 ms) pass between two looks at the time."""
SCHEMA = "handrail"
"""The ledger's schema in a PostgreSQL database; in a SQLite file it has none."""


class LedgerAway(Unreachable):
    """The server of the ledger's database does not answer."""


class TookTooLong(HandrailError):
    """A question to the ledger was not answered in the time that it was given."""


@dataclass(frozen=True, slots=True)
class Place:
    """A ledger's address. `schema` counts in PostgreSQL only."""

    url: URL
    schema: str = SCHEMA

    @classmethod
    def of(cls, given: str | Path) -> Place:
        """`given` is a file's path, or `postgresql+psycopg://…`, or `sqlite:///…`. Raises ConfigError."""
        text = str(given)
        try:
            url = make_url(text) if "://" in text else URL.create("sqlite", database=text)
        except ArgumentError:
            raise ConfigError("HANDRAIL_LEDGER is neither a file nor a URL such as postgresql+psycopg://…") from None
        backend = url.get_backend_name()
        if backend not in ("sqlite", "postgresql") or (backend == "sqlite" and not url.database):
            raise ConfigError(f"HANDRAIL_LEDGER={cls(url)}: a ledger is a SQLite file or a PostgreSQL database")
        return cls(url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url)

    @property
    def file(self) -> Path | None:
        """The file of a SQLite ledger."""
        if self.url.get_backend_name() != "sqlite":
            return None
        return Path(self.url.database or "").absolute()

    def __str__(self) -> str:
        """For people and logs: without the password."""
        return str(self.file) if self.file else self.url.render_as_string(hide_password=True)

    def engine(self, *, read_only: bool = False, within_s: float | None = None) -> Engine:
        """One connection, opened when it is first used. What is read only can't write, whatever it is asked.

        `within_s` ends what takes longer: in SQLite counted from the connection on, in PostgreSQL for each statement.
        """
        file = self.file
        return _sqlite(file, read_only, within_s) if file else self._postgresql(read_only, within_s)

    def _postgresql(self, read_only: bool, within_s: float | None) -> Engine:
        options = f"-csearch_path={self.schema}" + (" -cdefault_transaction_read_only=on" if read_only else "")
        if within_s is not None:
            options += f" -cstatement_timeout={int(within_s * 1000)}"
        try:
            return create_engine(
                self.url,
                pool_size=1,
                max_overflow=0,
                pool_pre_ping=True,
                connect_args={
                    "options": options,
                    "connect_timeout": CONNECT_S,
                    "application_name": "handrail-console",
                    "tcp_user_timeout": LOST_S * 1000,
                    "keepalives": 1,
                    "keepalives_idle": LOST_S // 2,
                    "keepalives_interval": LOST_S // 4,
                    "keepalives_count": 2,
                },
            )
        except (ImportError, NoSuchModuleError) as error:
            raise ConfigError(f"HANDRAIL_LEDGER={self}: its driver is not there: {error}") from error


def _sqlite(file: Path, read_only: bool, within_s: float | None) -> Engine:
    def connect() -> sqlite3.Connection:
        if read_only:
            wait_s = BUSY_S if within_s is None else within_s
            made = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=wait_s, isolation_level=None)
            if within_s is not None:
                deadline = time.monotonic() + within_s
                made.set_progress_handler(lambda: time.monotonic() > deadline, STEPS)
            return made
        return sqlite3.connect(file, timeout=BUSY_S, isolation_level=None, check_same_thread=False)

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, pool_size=1, max_overflow=0)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        # WAL: after a power cut the last batches may be missing, together with their positions: they are read again.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 10000")  # pages: not at each batch, which touches most of them
        connection.execute("PRAGMA cache_size = -65536")  # KiB: ids are hashes, so rows go to everywhere in the tables

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        # A writer takes its place at once: else two that have read would both wait to write, and one would fail.
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


@contextmanager
def told(place: Place) -> Iterator[None]:
    """Turns the database's errors into words. Raises StateError, and Unreachable where a server does not answer."""
    try:
        yield
    except DBAPIError as error:
        raise _in_words(place, error) from error
    except sqlite3.DatabaseError as error:
        raise StateError(f"the ledger {place} can't be used: {error}. {_advice(str(error))}") from error
    except OSError as error:
        said = error.strerror or str(error)
        raise StateError(f"the ledger {place} can't be used: {said}. {_advice(said)}") from error


def _in_words(place: Place, error: DBAPIError) -> Exception:
    said = " ".join(str(error.orig).split()) or type(error.orig).__name__
    if isinstance(error.orig, sqlite3.OperationalError) and said == "interrupted":
        return TookTooLong(f"the ledger {place} did not answer in time")
    if getattr(error.orig, "sqlstate", None) == "57014":  # query_canceled, by statement_timeout
        return TookTooLong(f"the ledger's database {place} did not answer in time")
    if place.file is None and _is_away(error):
        return LedgerAway(f"the ledger's database {place} does not answer: {said}")
    return StateError(f"the ledger {place} can't be used: {said}. {_advice(said)}")


def _is_away(error: DBAPIError) -> bool:
    """Whether waiting may help: the connection was lost or refused, or the server is starting or stopping (class 57P)."""
    state = getattr(error.orig, "sqlstate", None)
    return (
        error.connection_invalidated
        or (state is None and type(error.orig).__name__ == "OperationalError")
        or (str(state or "").startswith(("57P", "08", "53300")))
    )


def _advice(said: str) -> str:
    if "not a database" in said or "malformed" in said:
        # A rebuild opens what is there, so it would fail as console does.
        return (
            "If it is not Handrail's, name another file with HANDRAIL_LEDGER. Else it is damaged: stop console, delete the "
            "file and its -wal and -shm, start console; it is rebuilt from the topics"
        )
    if "full" in said or "No space" in said:
        return "Free some space on its disk; console goes on where it was"
    if "readonly" in said or "read-only" in said.lower() or "unable to open" in said or "Permission" in said:
        return "Make its folder writable for this user, or name another file with HANDRAIL_LEDGER"
    if "permission denied" in said:
        return "Give its user the right to create a schema, or make the schema `handrail` for it"
    if "locked" in said:
        return "Another process holds it; is something else than console writing to it?"
    return "`handrail ledger rebuild` makes it anew from the topics"
