"""A batch's rows over the committed tables: seen at once, and part of nothing until they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from handrail.contracts import Contracts
from handrail.log import Record
from handrail.pending import (
    DELAYED,
    Pending,
    View,
    dead,
    generation_of,
    replay_position,
    timer_of,
    timer_row,
)
from handrail.tables import Changes, Identity, PartitionTables
from hypothesis import given
from hypothesis import strategies as st

from handrail import changelog

CONTRACTS = Contracts.load(Path(__file__).parents[2] / "contracts")
STAGE = "flow.transform"


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[PartitionTables]:
    each = PartitionTables(tmp_path / "0", Identity(STAGE, 0, 1, {}), window_ms=8_000)
    yield each
    each.close()


def view(pending: Pending) -> View:
    return View(
        pending, {"queues": "handrail/effect-queue.v1"}, CONTRACTS.encode, lambda raw: CONTRACTS.decode(raw)[1], 5
    )


def test_a_row_of_this_batch_hides_the_committed_one_also_when_it_is_deleted(tables: PartitionTables) -> None:
    tables.apply(Changes(state={b"a": b"1", b"b": b"2"}, delayed={1: b"x"}))
    pending = Pending(tables)
    pending.state |= {b"a": b"new", b"b": None}
    pending.delayed[1] = None
    assert (pending.get(b"a"), pending.get(b"b"), pending.get(b"c")) == (b"new", None, None)
    assert pending.delayed_record(1) is None


def test_a_mark_counts_within_its_batch(tables: PartitionTables) -> None:
    tables.apply(Changes(marks=[(0, [b"1" * 16])]))
    pending = Pending(tables)
    pending.marks[b"2" * 16] = None
    assert [pending.done(n * 16) for n in (b"1", b"2", b"3")] == [True, True, False]


def test_a_view_counts_only_when_it_is_kept_and_sees_itself(tables: PartitionTables) -> None:
    pending = Pending(tables)
    first = view(pending)
    first.put("queues", "k", {"route": "k", "effects": ["e"]})
    assert first.get("queues", "k") == {"route": "k", "effects": ["e"]}
    assert view(pending).get("queues", "k") is None
    first.keep()
    assert view(pending).get("queues", "k") == {"route": "k", "effects": ["e"]}
    second = view(pending)
    second.put("queues", "k", None)
    assert second.get("queues", "k") is None
    assert pending.touched()


def test_a_table_that_the_stage_does_not_have_is_an_error(tables: PartitionTables) -> None:
    with pytest.raises(KeyError, match="no table 'other'"):
        view(Pending(tables)).get("other", "k")


def test_nothing_is_touched_by_looking(tables: PartitionTables) -> None:
    pending = Pending(tables)
    pending.get(b"a")
    pending.done(b"x" * 16)
    view(pending).get("queues", "k")
    assert not pending.touched()


@given(st.integers(1, (1 << 32) - 1))
def test_a_dead_mark_tells_its_generation_and_no_other_mark_does(generation: int) -> None:
    assert generation_of(dead(generation)) == generation
    assert generation_of(DELAYED) == generation_of(None) == 0


@given(st.text("abc-", min_size=1), st.text(), st.integers(0, 1 << 62), st.binary())
def test_a_timers_row_tells_all_about_it(name: str, key: str, due_at: int, payload: bytes) -> None:
    row = timer_row(name, key)
    assert timer_of(row, due_at.to_bytes(8, "big") + payload) == (name, key, due_at, payload)


def test_a_replay_position_comes_back(tables: PartitionTables) -> None:
    pending = Pending(tables)
    pending.set_replay_position(17)
    assert replay_position(pending.get(b"p/replay")) == 17
    assert replay_position(None) == 0


@given(
    st.dictionaries(st.binary(min_size=1, max_size=8), st.none() | st.binary(), max_size=5),
    st.dictionaries(st.integers(0, 99), st.none() | st.binary(), max_size=5),
    st.sets(st.binary(min_size=16, max_size=16), max_size=5),
)
def test_what_goes_to_the_changelogs_comes_back_on_restore(
    tmp_path_factory: pytest.TempPathFactory,
    state: dict[bytes, bytes | None],
    delayed: dict[int, bytes | None],
    marks: set[bytes],
) -> None:
    tables = PartitionTables(tmp_path_factory.mktemp("t") / "0", Identity(STAGE, 0, 1, {}), window_ms=8_000)
    try:
        pending = Pending(tables)
        pending.state, pending.delayed, pending.marks = state, delayed, dict.fromkeys(marks)
        records, ends = [], dict[str, int]()
        for each in changelog.records_of(STAGE, 0, pending):
            records.append(Record(each.topic, 0, ends.get(each.topic, 0), 77, each.key, each.value))
            ends[each.topic] = ends.get(each.topic, 0) + 1
        restored = changelog.changes_from(STAGE, records)
        assert (restored.state, restored.delayed, restored.positions) == (state, delayed, ends)
        assert {mark for _, some in restored.marks for mark in some} == marks
        assert {at for at, _ in restored.marks} <= {77}
    finally:
        tables.close()


def test_marks_are_cut_into_records_that_can_be_sent(tables: PartitionTables) -> None:
    pending = Pending(tables)
    pending.marks = {n.to_bytes(16, "big"): None for n in range(70_000)}
    records = list(changelog.records_of(STAGE, 0, pending))
    assert len(records) == 3
    assert max(len(each.value or b"") for each in records) <= 1_000_000
    assert (
        sum(
            len(digests)
            for _, digests in changelog.changes_from(
                STAGE, [Record(each.topic, 0, n, 0, None, each.value) for n, each in enumerate(records)]
            ).marks
        )
        == 70_000
    )
