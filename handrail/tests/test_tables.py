"""A partition's tables: a cache that is never ahead of its changelogs, and wiped when it can't be trusted."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from handrail.errors import StateError
from handrail.tables import Changes, Identity, PartitionTables, StateFolder
from hypothesis import given, settings
from hypothesis import strategies as st

WINDOW = 8_000
BUCKET = 1_000
ME = Identity("flow.transform", 0, 4, {"flow.transform.state": "id-1"})


def digest(n: int) -> bytes:
    return n.to_bytes(16, "big")


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    tables: list[PartitionTables] = []

    def start(identity: Identity = ME, window_ms: int = WINDOW) -> PartitionTables:
        close()
        tables.append(PartitionTables(tmp_path / "0", identity, window_ms=window_ms))
        return tables[0]

    def close() -> None:
        while tables:
            tables.pop().close()

    start.close = close  # type: ignore[attr-defined]
    yield start
    close()


def marked(tables: PartitionTables, *numbers: int) -> list[bool]:
    tables.begin_batch()
    found = [tables.marked(digest(n)) for n in numbers]
    tables.end_batch()
    return found


def row(tables: PartitionTables, key: bytes) -> bytes | None:
    tables.begin_batch()
    value = tables.get(key)
    tables.end_batch()
    return value


FULL = Changes(
    state={b"t/a": b"1", b"t/b": b"2", b"c/x": b"3"},
    delayed={7: b"later", 3: b"sooner"},
    marks=[(5_000, [digest(1), digest(2)])],
    positions={"s": 3, "m": 1, "d": 2},
)


def test_what_was_applied_is_there_after_a_restart_with_its_positions(opened: Any) -> None:
    opened().apply(FULL)
    again = opened()
    assert again.positions() == {"s": 3, "m": 1, "d": 2}
    assert row(again, b"t/a") == b"1"
    assert list(again.scan_delayed()) == [(3, b"sooner"), (7, b"later")]
    assert list(again.scan_state(b"t/")) == [(b"t/a", b"1"), (b"t/b", b"2")]
    assert list(again.scan_state(b"zz")) == []
    assert marked(again, 1, 2, 3) == [True, True, False]


def test_a_tombstone_deletes_and_other_positions_stay(opened: Any) -> None:
    tables = opened()
    tables.apply(FULL)
    tables.apply(Changes(state={b"t/a": None, b"never": None}, delayed={3: None}, positions={"s": 4}))
    assert row(tables, b"t/a") is None
    assert list(tables.scan_delayed()) == [(7, b"later")]
    assert tables.positions() == {"s": 4, "m": 1, "d": 2}


def test_a_batch_reads_one_snapshot(opened: Any) -> None:
    tables = opened()
    tables.apply(FULL)
    tables.begin_batch()
    assert tables.get(b"t/a") == b"1"
    assert tables.delayed(3) == b"sooner"
    assert tables.delayed(4) is None
    tables.end_batch()


@pytest.mark.parametrize(
    "other",
    [
        Identity("flow.decision", 0, 4, ME.topic_ids),
        Identity("flow.transform", 1, 4, ME.topic_ids),
        Identity("flow.transform", 0, 5, ME.topic_ids),
        Identity("flow.transform", 0, 4, {"flow.transform.state": "made anew"}),
    ],
)
def test_tables_of_another_identity_are_wiped(opened: Any, other: Identity) -> None:
    opened().apply(FULL)
    again = opened(other)
    assert (again.positions(), row(again, b"t/a"), marked(again, 1)) == ({}, None, [False])


def test_another_window_wipes_the_tables_because_marks_of_old_buckets_would_hide_new_ones(opened: Any) -> None:
    opened().apply(Changes(marks=[(1_000_000, [digest(1)])], positions={"m": 1}))
    again = opened(window_ms=2 * WINDOW)
    assert again.positions() == {}
    again.apply(Changes(marks=[(1_000_000, [digest(1), digest(2)])], positions={"m": 1}))
    assert marked(again, 1, 2) == [True, True]


def test_a_machine_that_crashed_wipes_because_writes_are_not_synced(opened: Any, tmp_path: Path) -> None:
    opened().apply(FULL)
    opened.close()
    (tmp_path / "0" / "boot").write_text("another boot")
    assert opened().positions() == {}


def test_a_table_that_rested_for_longer_than_tombstones_are_kept_is_wiped(opened: Any, tmp_path: Path) -> None:
    opened().apply(FULL)
    opened.close()
    old = time.time() - 13 * 3_600
    os.utime(tmp_path / "0" / "data.mdb", (old, old))
    assert opened().positions() == {}, "rows that were deleted meanwhile would come back"


@pytest.mark.parametrize("harm", ["garbage", "empty", "cut", "half"])
def test_a_broken_file_is_wiped(tmp_path: Path, harm: str) -> None:
    tables = PartitionTables(tmp_path / "0", ME, window_ms=WINDOW)
    tables.apply(Changes(state={b"t/%d" % n: bytes(1_000) for n in range(500)}, positions={"s": 500}))
    tables.close()
    file = tmp_path / "0" / "data.mdb"
    whole = file.read_bytes()
    file.write_bytes(
        {"garbage": b"\xff" * len(whole), "empty": b"", "cut": whole[:100], "half": whole[: len(whole) // 2]}[harm]
    )
    again = PartitionTables(tmp_path / "0", ME, window_ms=WINDOW)
    try:
        assert again.positions() == {}
        again.apply(FULL)
        assert row(again, b"t/a") == b"1"
    finally:
        again.close()


def test_wiping_forgets_everything_and_the_tables_can_be_filled_again(opened: Any) -> None:
    tables = opened()
    tables.apply(FULL)
    tables.wipe()
    assert (tables.positions(), row(tables, b"t/a"), marked(tables, 1)) == ({}, None, [False])
    assert list(tables.scan_delayed()) == []
    tables.apply(FULL)
    assert marked(tables, 1, 2) == [True, True]
    assert marked(opened(), 1, 2) == [True, True]


def test_marks_are_kept_for_the_window_by_the_brokers_time_and_then_dropped_bucket_by_bucket(opened: Any) -> None:
    tables = opened()
    for n in range(30):
        tables.apply(Changes(marks=[(n * BUCKET, [digest(n)])], positions={"m": n + 1}))
    inside = list(range(21, 30))
    assert marked(tables, *inside) == [True] * len(inside), "at least the window"
    assert marked(tables, *range(20)) == [False] * 20


def test_a_late_record_out_of_the_window_is_no_mark_and_one_inside_is(opened: Any) -> None:
    tables = opened()
    tables.apply(Changes(marks=[(100 * BUCKET, [digest(1)])]))
    tables.apply(Changes(marks=[(93 * BUCKET, [digest(2)]), (50 * BUCKET, [digest(3)])]))
    assert marked(tables, 1, 2, 3) == [True, True, False]


def test_one_chunk_of_a_restore_may_span_more_than_the_window(opened: Any) -> None:
    tables = opened()
    tables.apply(Changes(marks=[(n * BUCKET, [digest(n)]) for n in range(40)], positions={"m": 40}))
    assert marked(tables, *range(31, 40)) == [True] * 9
    assert marked(tables, *range(30)) == [False] * 30
    tables.apply(Changes(marks=[(40 * BUCKET, [digest(40)])], positions={"m": 41}))
    assert marked(opened(), 39, 40) == [True, True]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 40 * BUCKET), st.integers(0, 200)), max_size=6), min_size=1, max_size=12)
)
def test_no_mark_inside_the_window_is_ever_forgotten(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[list[tuple[int, int]]]
) -> None:
    tables = PartitionTables(tmp_path_factory.mktemp("t") / "0", ME, window_ms=WINDOW)
    newest, times = 0, dict[int, int]()
    try:
        for chunk in chunks:
            tables.apply(Changes(marks=[(at, [digest(n)]) for at, n in chunk]))
            for at, n in chunk:
                newest = max(newest, at)
                times[n] = max(times.get(n, 0), at)
        wanted = [n for n, at in times.items() if at > newest - WINDOW]
        assert marked(tables, *wanted) == [True] * len(wanted)
    finally:
        tables.close()


def test_the_map_grows_when_it_is_full(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handrail.tables._FIRST_MAP_SIZE", 1 << 18)
    tables = opened()
    tables.apply(Changes(state={b"t/%d" % n: bytes(1_000) for n in range(2_000)}, positions={"s": 1}))
    assert row(tables, b"t/1999") == bytes(1_000)


def test_a_write_that_fails_leaves_neither_rows_nor_positions(opened: Any) -> None:
    tables = opened()
    tables.apply(FULL)
    with pytest.raises(StateError):
        tables.apply(Changes(state={b"t/a": b"new", b"x" * 600: b"key too long"}, positions={"s": 9}))
    assert row(tables, b"t/a") == b"1"
    assert tables.positions()["s"] == 3


def test_a_state_folder_is_of_one_process_only(tmp_path: Path) -> None:
    first = StateFolder(tmp_path, "flow.transform", 0)
    with pytest.raises(StateError, match=r"held by another process.*HANDRAIL_ORDINAL"):
        StateFolder(tmp_path, "flow.transform", 0)
    StateFolder(tmp_path, "flow.transform", 1).close()
    first.close()
    StateFolder(tmp_path, "flow.transform", 0).close()


def test_a_home_that_can_not_be_is_a_state_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"state folder .* can't be used"):
        StateFolder(tmp_path / "file" / "home", "flow.transform", 0)


def test_opening_alone_does_not_make_old_tables_look_fresh(opened: Any, tmp_path: Path) -> None:
    opened().apply(FULL)
    opened.close()
    old = time.time() - 11 * 3_600
    os.utime(tmp_path / "0" / "data.mdb", (old, old))
    assert opened().positions() != {}
    opened.close()
    assert (tmp_path / "0" / "data.mdb").stat().st_mtime == pytest.approx(old)
