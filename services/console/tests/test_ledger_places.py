"""Where a ledger may be, what is done about one that can't be used, and how its schema moves on."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from handrail.contracts import Contracts
from handrail.errors import ConfigError, StateError, Unreachable
from handrail_console.database import Place
from handrail_console.ledger import Ledger, open_for_reading
from handrail_console.migrate import FOLDER, HEAD, write_ahead
from handrail_console.queries import Queries
from handrail_console.schema import APPLICATION, METADATA, REVISIONS
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError


def run_sql(place: Place, statement: str) -> None:
    engine = place.engine()
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def pragma(ledger: Ledger, setting: str) -> None:
    """For its one connection, until it is told otherwise."""
    with ledger.engine.connect() as connection:
        connection.connection.driver_connection.execute(f"PRAGMA {setting.strip()}")  # type: ignore[union-attr]


def test_the_migrations_make_the_tables_that_the_code_knows(place: Place, contracts: Contracts) -> None:
    Ledger(place, contracts).close()
    engine = place.engine()
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), METADATA) == []
    engine.dispose()


def test_every_migration_is_listed_in_order() -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.set_main_option("path_separator", "os")
    walked = [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(walked)) == REVISIONS


def test_what_people_have_built_on_a_view_outlives_a_migration(
    place: Place, contracts: Contracts, records: Any
) -> None:
    if place.file:
        place.file.parent.mkdir()
    engine = place.engine()
    with engine.begin() as connection:
        if place.file is None:
            connection.execute(text(f"CREATE SCHEMA {place.schema}"))
        else:
            connection.execute(text(f"PRAGMA application_id = {APPLICATION}"))
        config = Config()
        config.set_main_option("script_location", str(FOLDER))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        connection.execute(text("CREATE VIEW mine AS SELECT flow, found FROM measure_duplicates"))
    engine.dispose()
    with Ledger(place, contracts) as ledger:
        ledger.apply([records.transition(1, "prepared", "prepared") for _ in range(2)])
        with ledger.engine.begin() as connection:
            assert connection.execute(text("SELECT * FROM mine")).all() == [("order-to-invoice", 1)]


def test_many_that_switch_a_new_file_to_wal_at_once_wait_for_each_other(tmp_path: Path) -> None:
    """SQLite refuses one of them instead of waiting: one round in eight here, with the bare PRAGMA."""

    def switch(file: Path, begin: Barrier) -> str:
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            begin.wait()
            write_ahead(connection)
            return str(connection.execute("PRAGMA journal_mode").fetchone()[0])

    with ThreadPoolExecutor(4) as pool:
        for number in range(100):
            args = [tmp_path / str(number)] * 4, [Barrier(4)] * 4
            assert list(pool.map(switch, *args)) == ["wal"] * 4


def test_two_that_come_at_once_make_one_ledger(place: Place, contracts: Contracts, records: Any) -> None:
    with ThreadPoolExecutor(2) as both:
        one, other = both.map(lambda _: Ledger(place, contracts), range(2))
    with one, other:
        batch = [records.transition(1, "prepared", "prepared"), records.task()]
        assert one.positions() == other.positions() == {}
        assert [one.apply(batch), other.apply(batch)] == [2, 0]


def test_a_ledger_of_a_newer_build_is_left_alone(place: Place, contracts: Contracts) -> None:
    Ledger(place, contracts).close()
    run_sql(place, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(
        StateError, match=rf"written by a newer Handrail \(its schema is 9999, this build knows {HEAD}\)"
    ):
        Ledger(place, contracts)
    with pytest.raises(StateError, match="newer Handrail"):
        open_for_reading(place)


def test_a_ledger_that_console_has_yet_to_bring_up_to_date_is_said(place: Place, contracts: Contracts) -> None:
    Ledger(place, contracts).close()
    run_sql(place, "DELETE FROM alembic_version")
    with pytest.raises(StateError, match=r"no ledger yet at .*: is console running\? `handrail status`"):
        open_for_reading(place)


def test_the_reading_side_can_not_write(place: Place, contracts: Contracts) -> None:
    Ledger(place, contracts).close()
    engine = open_for_reading(place)
    with pytest.raises(DBAPIError, match=r"readonly|read-only"), engine.begin() as connection:
        connection.execute(text("DELETE FROM runs"))
    engine.dispose()


def test_no_ledger_yet_is_told_with_what_to_do(place: Place) -> None:
    with pytest.raises(StateError, match=r"no ledger yet at .*: is console running\? `handrail status`"):
        open_for_reading(place)


def test_a_file_of_an_earlier_form_says_how_to_go_on(path: Path, contracts: Contracts) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE runs (run TEXT)")
        db.execute(f"PRAGMA application_id = {APPLICATION}")
    db.close()
    with pytest.raises(StateError, match=r"of a build before 0\.1: stop console, delete the file"):
        Ledger(path, contracts)


def test_an_empty_file_becomes_a_ledger(path: Path, contracts: Contracts) -> None:
    path.parent.mkdir()
    path.touch()
    with pytest.raises(StateError, match="no ledger yet"):
        open_for_reading(Place.of(path))
    Ledger(path, contracts).close()
    Queries.open(path).close()


def test_a_file_that_is_no_ledger_is_left_alone(path: Path, contracts: Contracts) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (a)")
    db.close()
    with pytest.raises(StateError, match="not a ledger of Handrail"):
        Ledger(path, contracts)
    path.write_bytes(b"no database at all, but long enough to be looked at" * 50)
    with pytest.raises(StateError, match="can't be used: file is not a database"):
        Ledger(path, contracts)


@pytest.mark.parametrize("damage", ["its beginning", "a page of a table"])
def test_a_damaged_ledger_can_be_read_from_the_topics_again_by_what_is_advised(
    damage: str, path: Path, contracts: Contracts, records: Any
) -> None:
    """The advice names no rebuild, which would open the damaged file and fail alike."""
    batch = [records.transition(n, "acting", "next", reason="x" * 200) for n in range(1, 200)]
    with Ledger(path, contracts) as ledger:
        ledger.apply(batch)
    with path.open("r+b") as file:
        if damage != "its beginning":
            file.seek(3 * 4096)  # behind the schema's pages
        file.write(b"\xff" * (path.stat().st_size - file.tell()))
    with pytest.raises(StateError, match=r"can't be used: .*it is damaged: stop console, delete the file") as raised:
        Ledger(path, contracts).apply([records.transition(200, "done", "outcome")])
    assert "ledger rebuild" not in str(raised.value)
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    with Ledger(path, contracts) as anew:
        assert anew.apply(batch) == 199


def test_a_folder_that_can_not_be_written_is_said_plainly(tmp_path: Path, contracts: Contracts) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(StateError, match="can't be used"):
        Ledger(blocked / "ledger.sqlite", contracts)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StateError, match=r"unable to open database file\. Make its folder writable"):
        Ledger(tmp_path / "folder", contracts)


def test_a_read_only_ledger_is_said_plainly_and_nothing_is_half_written(
    path: Path, contracts: Contracts, records: Any
) -> None:
    with Ledger(path, contracts) as ledger:
        pragma(ledger, " query_only = ON")  # root may write every file, so file modes prove nothing here
        with pytest.raises(StateError, match=r"readonly database\. Make its folder writable"):
            ledger.apply([records.transition(1, "prepared", "prepared")])
        pragma(ledger, " query_only = OFF")
        assert ledger.positions() == {}


def test_a_full_disk_writes_nothing_and_goes_on_later(path: Path, contracts: Contracts, records: Any) -> None:
    batch = [records.transition(n, "acting", "next", run=f"{n:036}", reason="x" * 2000) for n in range(1, 200)]
    with Ledger(path, contracts) as ledger:
        pragma(ledger, " max_page_count = 40")
        with pytest.raises(StateError, match=r"disk is full\. Free some space"):
            ledger.apply(batch)
        assert ledger.positions() == {}
        pragma(ledger, " max_page_count = 100000")
        assert ledger.apply(batch) == 199


@pytest.mark.parametrize("given", ["mysql://localhost/x", "sqlite://", "postgresql+nothing://localhost/x", "://"])
def test_an_address_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="HANDRAIL_LEDGER"):
        Place.of(given).engine()


def test_a_password_is_never_told(contracts: Contracts) -> None:
    given = "postgresql://ada:secret@127.0.0.1:1/ledger"
    assert str(Place.of(given)) == "postgresql+psycopg://ada:***@127.0.0.1:1/ledger"
    with pytest.raises(Unreachable, match="does not answer") as raised:
        Ledger(given, contracts)
    assert "secret" not in str(raised.value)


def test_a_path_with_signs_of_a_url_is_a_path(tmp_path: Path, contracts: Contracts) -> None:
    odd = tmp_path / "a b%20?#é" / "ledger.sqlite"
    Ledger(odd, contracts).close()
    Queries.open(odd).close()
    assert odd.exists()


def test_a_server_that_falls_silent_is_not_waited_for_for_ever(postgresql: str) -> None:
    """By default the system gives up after hours; 20 s are over before anybody is told that console is stuck."""
    engine = Place.of(postgresql).engine()
    with engine.connect() as connection:
        told = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    engine.dispose()
    assert told["tcp_user_timeout"] == "20000"
    probes = int(told["keepalives_interval"]) * int(told["keepalives_count"])
    assert int(told["keepalives_idle"]) + probes == 20


def test_a_connection_that_is_cut_is_made_anew(postgresql: str, contracts: Contracts, records: Any) -> None:
    place = Place.of(postgresql)
    with Ledger(place, contracts) as ledger:
        run_sql(place, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        batch = [records.transition(1, "prepared", "prepared")]
        try:
            applied = ledger.apply(batch)
        except Unreachable:  # as console does: it asks for the positions and goes on
            assert ledger.positions() == {}
            applied = ledger.apply(batch)
        assert applied == 1
    run_sql(place, "DROP SCHEMA handrail CASCADE")
