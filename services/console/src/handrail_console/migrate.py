"""The ledger's schema: which revision a database has, and how it becomes the newest. Alembic does it, in one transaction."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from handrail.errors import StateError
from sqlalchemy import Connection, Engine, inspect, text

from handrail_console.database import BUSY_S, Place
from handrail_console.schema import APPLICATION, REVISIONS

HEAD = REVISIONS[-1]
FOLDER = Path(__file__).parent / "migrations"
_LOCK = 0x48524C47
_NEWER = (
    "was written by a newer Handrail (its schema is {found}, this build knows {head}): use that one, or another ledger"
)


def migrate(engine: Engine, place: Place) -> None:
    """Bring the schema to the newest revision, under a lock: of two that come at once, one waits.

    Raises StateError when the database holds something else, or the schema of a newer build; then nothing was changed.
    """
    if place.file:
        with engine.connect() as connection:
            driver = connection.connection.driver_connection
            if driver is not None and not inspect(connection).get_table_names():
                connection.rollback()
                write_ahead(driver)
    with engine.begin() as connection:
        if place.file is None:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        found = current(connection, place)
        if found == HEAD:
            return
        if found is not None and found not in REVISIONS:
            raise StateError(f"the ledger {place} " + _NEWER.format(found=found, head=HEAD))
        _prepare(connection, place, found)
        _upgrade(connection)


def write_ahead(driver: Any) -> None:
    """Switch the file to WAL. SQLite does not wait for a lock here: another that comes at once may be switching it, too."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            driver.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def current(connection: Connection, place: Place) -> str | None:
    """The revision of a ledger; None when the database is empty. Raises StateError when it holds something else."""
    looked = inspect(connection)
    schema = None if place.file else place.schema
    if looked.has_table("alembic_version", schema=schema) and _is_ours(connection, place):
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return None if found is None else str(found)
    if place.file is None or not looked.get_table_names():
        return None
    if _is_ours(connection, place):
        raise StateError(
            f"the ledger {place} is of a build before 0.1: stop console, delete the file and its -wal and -shm, start "
            "console; it is rebuilt from the topics"
        )
    raise StateError(f"{place} is not a ledger of Handrail; name another file with HANDRAIL_LEDGER")


def require_current(found: str, place: Place) -> None:
    """Raises StateError unless the ledger has the schema of this build."""
    if found not in REVISIONS:
        raise StateError(f"the ledger {place} " + _NEWER.format(found=found, head=HEAD))
    if found != HEAD:
        raise StateError(
            f"the ledger {place} has the schema {found}, this build needs {HEAD}: start console, it brings it up to date"
        )


def _is_ours(connection: Connection, place: Place) -> bool:
    return place.file is None or connection.scalar(text("PRAGMA application_id")) == APPLICATION


def _prepare(connection: Connection, place: Place, found: str | None) -> None:
    if found is not None:
        return
    if place.file:
        connection.execute(text(f"PRAGMA application_id = {APPLICATION}"))
    elif not inspect(connection).has_schema(place.schema):
        connection.execute(text(f'CREATE SCHEMA "{place.schema}"'))


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
