"""The ledger: every record once, whatever is repeated, torn or restarted."""

from __future__ import annotations

import random
import sqlite3
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.errors import StateError
from handrail_console.ledger import Ledger, open_for_reading
from handrail_console.queries import LetterFilter, Queries
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def dump(path: Path) -> list[str]:
    db = sqlite3.connect(path)
    try:
        return list(db.iterdump())
    finally:
        db.close()


def whole_run(records: Any) -> list[Any]:
    return [
        records.transition(1, "prepared", "prepared"),
        records.transition(2, "acting", "next", step="invoice"),
        records.transition(3, "done", "outcome", step="invoice", attempts=3),
        records.task(),
        records.task(state="approved", decided_by="ann"),
        records.letter(),
        records.letter_state("OPEN"),
        records.letter_state("REPLAYING", replays=1),
    ]


def test_a_run_is_its_last_transition(ledger: Ledger, path: Path, records: Any) -> None:
    assert ledger.apply(whole_run(records)) == 8
    queries = Queries.open(path)
    [run] = queries.runs()
    assert (run["state"], run["sequence"], run["step"]) == ("done", 3, "invoice")
    assert run["updated_at"] - run["started_at"] == 2000
    assert run["dedupe"] == {"order_id": "7", "revision": "1"}
    assert [one["attempts"] for one in queries.transitions(run["run"])] == [0, 0, 3]
    queries.close()


def test_the_same_records_again_change_nothing(ledger: Ledger, path: Path, records: Any) -> None:
    batch = whole_run(records)
    ledger.apply(batch)
    before = dump(path)
    assert ledger.apply(batch) == 0
    assert ledger.apply(batch[:3]) == 0
    assert dump(path) == before


def test_a_restart_goes_on_from_the_stored_positions(path: Path, contracts: Contracts, records: Any) -> None:
    batch = whole_run(records)
    with Ledger(path, contracts) as first:
        first.apply(batch[:5])
        assert first.positions() == {("runs", 0): 3, ("tasks", 0): 2}
    with Ledger(path, contracts) as second:
        assert second.positions() == {("runs", 0): 3, ("tasks", 0): 2}
        assert second.apply(batch) == 3


def test_a_repeated_transition_at_another_offset_counts_once_and_is_seen(
    ledger: Ledger, path: Path, records: Any
) -> None:
    ledger.apply([records.transition(1, "prepared", "prepared"), records.transition(1, "prepared", "prepared")])
    queries = Queries.open(path)
    [only] = queries.transitions(queries.runs()[0]["run"])
    assert only["repeats"] == 1
    queries.close()


def test_an_older_transition_that_comes_late_does_not_move_a_run_back(ledger: Ledger, path: Path, records: Any) -> None:
    ledger.apply([records.transition(2, "done", "outcome"), records.transition(1, "prepared", "prepared")])
    queries = Queries.open(path)
    [run] = queries.runs()
    assert (run["state"], run["sequence"]) == ("done", 2)
    assert run["updated_at"] - run["started_at"] == 1000
    queries.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 8), max_size=5), seed=st.integers(0, 1000))
def test_however_it_is_cut_repeated_and_restarted_the_ledger_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, contracts: Contracts, records: Any, cuts: list[int], seed: int
) -> None:
    batch = whole_run(type(records)(contracts))
    whole, pieces = (tmp_path_factory.mktemp("ledger") / "ledger.sqlite" for _ in range(2))
    with Ledger(whole, contracts) as ledger:
        ledger.apply(batch)
    edges = [0, *sorted(cuts), len(batch)]
    dice = random.Random(seed)
    for start, end in pairwise(edges):
        with Ledger(pieces, contracts) as ledger:
            ledger.apply(batch[dice.randint(0, start) : end])
    assert dump(pieces) == dump(whole)


def test_a_record_that_does_not_decode_is_kept_and_the_next_one_is_read(
    ledger: Ledger, path: Path, records: Any, contracts: Contracts
) -> None:
    wrong = contracts.encode("orders/order-accepted.v1", example(contracts))
    ledger.apply(
        [
            records.raw("runs", "7", b"\x00garbage"),
            records.raw("runs", "7", b""),
            records.raw("runs", "7", None),
            records.raw("runs", "7", wrong),
            records.raw("dead-letters", "x", b"\x00\x00\x00\x00\x01"),
            records.transition(1, "prepared", "prepared"),
        ]
    )
    db = open_for_reading(path)
    rows = [tuple(row) for row in db.execute('SELECT topic, "offset", value, why FROM unreadable ORDER BY topic, 2')]
    assert [row[:3] for row in rows] == [
        ("dead-letters", 0, b"\x00\x00\x00\x00\x01"),
        ("runs", 0, b"\x00garbage"),
        ("runs", 1, b""),
        ("runs", 2, None),
        ("runs", 3, wrong),
    ]
    assert "unknown" in rows[0][3]
    assert "no value" in rows[3][3]
    assert "orders/order-accepted.v1 came where" in rows[4][3]
    assert Queries(db).count_runs() == 1
    db.close()


def example(contracts: Contracts) -> dict[str, Any]:
    simple = {"string": "a", "int": 1, "long": 1, "boolean": True, "double": 1.0, "bytes": b""}

    def value(kind: Any) -> Any:
        if isinstance(kind, list):
            return None if "null" in kind else value(kind[0])
        if isinstance(kind, dict):
            return {"array": [], "map": {}, "enum": (kind.get("symbols") or [None])[0]}.get(kind["type"])
        return simple[kind]

    return {field.name: value(field.type) for field in contracts["orders/order-accepted.v1"].fields}


def test_a_letter_without_a_state_is_open_and_one_that_failed_again_too(
    ledger: Ledger, path: Path, records: Any
) -> None:
    queries = Queries.open(path)

    def state() -> tuple[str, int, int]:
        [letter] = queries.letters(LetterFilter())
        return letter["state"], letter["generation"], letter["replays"]

    ledger.apply([records.letter()])
    assert state() == ("OPEN", 1, 0)
    ledger.apply([records.letter_state("REPLAYING", replays=1)])
    assert state() == ("REPLAYING", 1, 1)
    ledger.apply([records.letter(generation=2, message="no again")])
    assert state() == ("OPEN", 2, 1)
    ledger.apply([records.letter(generation=1, message="late")])
    assert state() == ("OPEN", 2, 1)
    ledger.apply([records.letter_state("RESOLVED", generation=2, replays=2)])
    assert state() == ("RESOLVED", 2, 2)
    queries.close()


def test_a_tombstone_forgets_a_letter_and_a_task(ledger: Ledger, path: Path, records: Any) -> None:
    task, letter = records.task(), records.letter()
    ledger.apply([task, letter, records.letter_state("RESOLVED")])
    ledger.apply(
        [
            records.raw("tasks", task.key.decode(), None),
            records.raw("dead-letters", letter.key.decode(), None),
            records.raw("recovery.states", letter.key.decode(), None),
        ]
    )
    queries = Queries.open(path)
    assert queries.tasks() == queries.letters(LetterFilter()) == []
    assert queries.count_unreadable() == 0
    queries.close()


def test_the_largest_dead_letter_is_read(ledger: Ledger, path: Path, records: Any) -> None:
    ledger.apply([records.letter(value=b"x" * (1024 * 1024), stack="y" * 16_384)])
    queries = Queries.open(path)
    [brief] = queries.letters(LetterFilter())
    whole = queries.letter(brief["letter"])
    assert whole is not None
    assert brief["bytes"] == len(whole["value"]) == 1024 * 1024
    assert len(whole["stack"]) == 16_384
    queries.close()


def test_a_ledger_of_another_version_says_how_to_go_on(path: Path, contracts: Contracts) -> None:
    Ledger(path, contracts).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 999")
    db.close()
    with pytest.raises(StateError, match=r"of version 999, this build needs \d+: stop console, delete the file"):
        Ledger(path, contracts)
    with pytest.raises(StateError, match="of version 999"):
        open_for_reading(path)


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
        ledger._db.execute("PRAGMA query_only = ON")  # root may write every file, so file modes prove nothing here
        with pytest.raises(StateError, match=r"readonly database\. Make its folder writable"):
            ledger.apply([records.transition(1, "prepared", "prepared")])
        ledger._db.execute("PRAGMA query_only = OFF")
        assert ledger.positions() == {}


def test_a_full_disk_writes_nothing_and_goes_on_later(path: Path, contracts: Contracts, records: Any) -> None:
    batch = [records.transition(n, "acting", "next", run=f"{n:036}", reason="x" * 2000) for n in range(1, 200)]
    with Ledger(path, contracts) as ledger:
        ledger._db.execute("PRAGMA max_page_count = 40")
        with pytest.raises(StateError, match=r"disk is full\. Free some space"):
            ledger.apply(batch)
        assert ledger.positions() == {}
        ledger._db.execute("PRAGMA max_page_count = 100000")
        assert ledger.apply(batch) == 199


def test_two_consoles_on_one_file_write_each_record_once(path: Path, contracts: Contracts, records: Any) -> None:
    batch = whole_run(records)
    with Ledger(path, contracts) as one, Ledger(path, contracts) as other:
        assert one.apply(batch[:4]) == 4
        assert other.apply(batch) == 4
        assert one.apply(batch) == 0


def test_the_reading_side_can_not_write(ledger: Ledger, path: Path) -> None:
    db = open_for_reading(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM runs")
    db.close()


def test_no_ledger_yet_is_told_with_what_to_do(path: Path) -> None:
    with pytest.raises(StateError, match=r"no ledger yet at .*: is console running\? `handrail status`"):
        open_for_reading(path)
    path.parent.mkdir()
    path.touch()
    with pytest.raises(StateError, match="no ledger yet"):
        open_for_reading(path)
