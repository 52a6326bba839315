"""The ledger: every record once, whatever is repeated, torn or restarted; the same in SQLite and PostgreSQL."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail_console import schema
from handrail_console.database import Place
from handrail_console.ledger import Ledger
from handrail_console.queries import LetterFilter, Queries
from handrail_console.writing import as_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import column, select, table


def dump(place: Place) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, but for which ledger it is."""
    queries = Queries.open(place)
    try:
        return {
            name: queries.all(select(one).order_by(*one.primary_key))
            for name, one in schema.METADATA.tables.items()
            if name != "ledger"
        }
    finally:
        queries.close()


@pytest.fixture
def ledger(place: Place, contracts: Contracts) -> Iterator[Ledger]:
    with Ledger(place, contracts) as made:
        yield made


@pytest.fixture
def queries(ledger: Ledger) -> Iterator[Queries]:
    opened = Queries.open(ledger.place)
    yield opened
    opened.close()


DATA_QUALITY = table(
    "data_quality", *(column(name) for name in ("contract", "field", "problem", "day", "flow", "failures", "messages"))
)


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


def test_a_run_is_its_last_transition(ledger: Ledger, queries: Queries, records: Any) -> None:
    assert ledger.apply(whole_run(records)) == 8
    [run] = queries.runs()
    assert (run["state"], run["sequence"], run["step"]) == ("done", 3, "invoice")
    assert run["updated_at"] - run["started_at"] == 2000
    assert run["dedupe"] == {"order_id": "7", "revision": "1"}
    assert [one["attempts"] for one in queries.transitions(run["run"])] == [0, 0, 3]


def test_the_same_records_again_change_nothing(ledger: Ledger, place: Place, records: Any) -> None:
    batch = whole_run(records)
    ledger.apply(batch)
    before = dump(place)
    assert ledger.apply(batch) == 0
    assert ledger.apply(batch[:3]) == 0
    assert dump(place) == before


def test_a_restart_goes_on_from_the_stored_positions(place: Place, contracts: Contracts, records: Any) -> None:
    batch = whole_run(records)
    with Ledger(place, contracts) as first:
        first.apply(batch[:5])
        assert first.positions() == {("runs", 0): 3, ("tasks", 0): 2}
    with Ledger(place, contracts) as second:
        assert second.positions() == {("runs", 0): 3, ("tasks", 0): 2}
        assert second.apply(batch) == 3


def test_a_repeated_transition_at_another_offset_counts_once_and_is_seen(
    ledger: Ledger, queries: Queries, records: Any
) -> None:
    ledger.apply([records.transition(1, "prepared", "prepared"), records.transition(1, "prepared", "prepared")])
    [only] = queries.transitions(queries.runs()[0]["run"])
    assert only["repeats"] == 1


def test_an_older_transition_that_comes_late_does_not_move_a_run_back(
    ledger: Ledger, queries: Queries, records: Any
) -> None:
    ledger.apply([records.transition(2, "done", "outcome"), records.transition(1, "prepared", "prepared")])
    [run] = queries.runs()
    assert (run["state"], run["sequence"]) == ("done", 2)
    assert run["updated_at"] - run["started_at"] == 1000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 8), max_size=5), seed=st.integers(0, 1000))
def test_however_it_is_cut_repeated_and_restarted_the_ledger_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, contracts: Contracts, records: Any, cuts: list[int], seed: int
) -> None:
    batch = whole_run(type(records)(contracts))
    whole, pieces = (Place.of(tmp_path_factory.mktemp("ledger") / "ledger.sqlite") for _ in range(2))
    with Ledger(whole, contracts) as ledger:
        ledger.apply(batch)
    edges = [0, *sorted(cuts), len(batch)]
    dice = random.Random(seed)
    for start, end in pairwise(edges):
        with Ledger(pieces, contracts) as ledger:
            ledger.apply(batch[dice.randint(0, start) : end])
    assert dump(pieces) == dump(whole)


def test_a_record_that_does_not_decode_is_kept_and_the_next_one_is_read(
    ledger: Ledger, queries: Queries, records: Any, contracts: Contracts
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
    kept = schema.UNREADABLE.c
    asked = select(kept.topic, kept.offset, kept.value, kept.why).order_by(kept.topic, kept.offset)
    rows = [tuple(row.values()) for row in queries.all(asked)]
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
    assert queries.count_runs() == 1


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
    ledger: Ledger, queries: Queries, records: Any
) -> None:

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


def test_a_tombstone_forgets_a_letter_and_a_task(ledger: Ledger, queries: Queries, records: Any) -> None:
    task, letter = records.task(), records.letter()
    ledger.apply([task, letter, records.letter_state("RESOLVED")])
    ledger.apply(
        [
            records.raw("tasks", task.key.decode(), None),
            records.raw("dead-letters", letter.key.decode(), None),
            records.raw("recovery.states", letter.key.decode(), None),
        ]
    )
    assert queries.tasks() == queries.letters(LetterFilter()) == []
    assert queries.count_unreadable() == 0


def test_of_a_system_the_newest_state_counts_and_a_tombstone_forgets_it(
    ledger: Ledger, queries: Queries, records: Any
) -> None:
    ledger.apply(
        [records.system("OPEN", reason="8 of 10 calls failed", at=1_767_261_723_009), records.system("CLOSED")]
    )
    (row,) = queries.all(select(schema.SYSTEMS))
    assert (row["system"], row["breaker"], row["reason"]) == ("billing", "OPEN", "8 of 10 calls failed")
    ledger.apply([records.raw("systems", "billing", None)])
    assert queries.all(select(schema.SYSTEMS)) == []


def test_the_largest_dead_letter_is_read(ledger: Ledger, queries: Queries, records: Any) -> None:
    ledger.apply([records.letter(value=b"x" * (1024 * 1024), stack="y" * 16_384)])
    [brief] = queries.letters(LetterFilter())
    whole = queries.letter(brief["letter"])
    assert whole is not None
    assert brief["bytes"] == len(whole["value"]) == 1024 * 1024
    assert len(whole["stack"]) == 16_384


def test_two_consoles_on_one_file_write_each_record_once(place: Place, contracts: Contracts, records: Any) -> None:
    batch = whole_run(records)
    with Ledger(place, contracts) as one, Ledger(place, contracts) as other:
        assert one.apply(batch[:4]) == 4
        assert other.apply(batch) == 4
        assert one.apply(batch) == 0


def test_text_that_postgresql_can_not_hold_is_kept_readable(ledger: Ledger, queries: Queries, records: Any) -> None:
    ledger.apply([records.transition(1, "failed", "outcome", reason="a\0b", dedupe={"order_id": "7\0"})])
    [run] = queries.runs()
    assert (run["reason"], run["dedupe"]) == ("a\\x00b", {"order_id": "7\0"})


def test_keys_that_postgresql_can_not_hold_are_forgotten_as_they_were_kept(
    ledger: Ledger, queries: Queries, records: Any
) -> None:
    ledger.apply([records.task(task="a\0b")])
    assert [task["task"] for task in queries.tasks()] == ["a\\x00b"]
    ledger.apply([records.raw("tasks", "a\0b", None)])
    assert queries.tasks() == []


def test_what_is_null_again_in_a_later_transition_is_null_in_its_run(
    ledger: Ledger, queries: Queries, records: Any
) -> None:
    ledger.apply(
        [records.transition(1, "failed", "outcome", step="invoice", failure_class="transient", reason="a 503")]
    )
    ledger.apply([records.transition(2, "decided", "replay")])
    [run] = queries.runs()
    assert [run[name] for name in ("state", "step", "failure_class", "reason")] == ["decided", None, None, None]


def test_a_repeated_transition_is_counted_whatever_else_it_tells(ledger: Ledger, records: Any) -> None:
    ledger.apply([records.transition(1, "acting", "next", step="invoice"), records.transition(1, "acting", "next")])
    ledger.apply([records.transition(1, "acting", "next", reason="another", actor="ann")])
    [transition] = dump(ledger.place)["transitions"]
    assert transition["repeats"] == 2


def test_of_two_transitions_with_one_number_the_first_is_kept_whatever_they_tell(ledger: Ledger, records: Any) -> None:
    ledger.apply(
        [
            records.transition(1, "prepared", "prepared"),
            records.transition(2, "acting", "next", step="invoice"),
            records.transition(2, "acting", "again"),
        ]
    )
    assert [(each["event"], each["repeats"]) for each in dump(ledger.place)["transitions"]] == [
        ("prepared", 0),
        ("next", 1),
    ]


@given(st.dictionaries(st.text(), st.text(), max_size=4))
def test_a_mapping_is_kept_as_json_with_sorted_names(value: dict[str, str]) -> None:
    assert as_json(value) == json.dumps(value, ensure_ascii=False, sort_keys=True)


def test_a_business_key_of_any_length_is_found(ledger: Ledger, queries: Queries, records: Any) -> None:
    key = "".join(f"{n:x}" for n in range(9000))  # longer than a row of PostgreSQL's B-tree, and hardly compressible
    ledger.apply([records.transition(1, "prepared", "prepared", route=key)])
    assert [run["route"] for run in queries.find_runs(key)] == [key]


def test_what_is_read_besides_records_moves_the_positions_too(ledger: Ledger, records: Any) -> None:
    ledger.apply([records.transition(1, "prepared", "prepared")], {("runs", 0): 2, ("tasks", 0): 7}, {("runs", 0): 9})
    assert ledger.positions() == {("runs", 0): 2, ("tasks", 0): 7}


def test_what_was_wrong_with_which_field_of_which_contract_is_counted_by_day(
    ledger: Ledger, queries: Queries, records: Any
) -> None:
    """Three letters of one day: one whose currency is wrong, failing twice; one without its order_id; one of a bug."""
    day, contract = 86_400_000, "orders/order-accepted.v1"
    stage = "order-to-invoice.ingest.orders.order-accepted"
    bad: dict[str, Any] = {"failure_class": "contract", "contract": contract, "flow": None, "run": None, "stage": stage}
    wrong = {
        **bad,
        "letter": "a",
        "field": "currency",
        "message": f"{contract}: currency is not valid: size(value) == 3",
    }
    missing = {
        **bad,
        "letter": "b",
        "field": "order_id",
        "message": f"{contract}: order_id is missing and must be given",
    }
    later = records.letter().timestamp + day
    ledger.apply(
        [
            records.letter(**wrong),
            records.letter(**wrong, generation=2),
            records.letter(**missing),
            records.letter(**(missing | {"letter": "c", "failed_at": later})),
            records.letter(letter="d", failure_class="bug"),
            records.raw("dead-letters", "a", None),
        ]
    )
    rows = queries.all(select(DATA_QUALITY).order_by(*DATA_QUALITY.c))
    assert [tuple(row.values()) for row in rows] == [
        (contract, "currency", "invalid", "2026-01-01", "order-to-invoice", 2, 1),
        (contract, "order_id", "missing", "2026-01-01", "order-to-invoice", 1, 1),
        (contract, "order_id", "missing", "2026-01-02", "order-to-invoice", 1, 1),
    ]


def test_the_contract_that_was_broken_is_blamed_and_not_that_of_the_message_that_came(
    ledger: Ledger, queries: Queries, records: Any
) -> None:
    """A request that the transform made; an event without what tells its run; a message that only looks like a name."""
    came, made = "orders/order-accepted.v1", "billing/invoice-request.v1"
    bad: dict[str, Any] = {"failure_class": "contract", "contract": came, "stage": "order-to-invoice.transform"}
    ledger.apply(
        [
            records.letter(
                **bad, letter="a", field="total_minor", message=f"{made}: total_minor is not valid: value > 0"
            ),
            records.letter(
                **bad, letter="b", field="shop", message="the event has no shop, which tells its run from others"
            ),
            records.letter(**bad, letter="c", field="currency", message="currency: not/one.v1: is meant"),
        ]
    )
    rows = queries.all(select(DATA_QUALITY.c["contract", "field", "problem"]).order_by(*DATA_QUALITY.c))
    assert [tuple(row.values()) for row in rows] == [
        (made, "total_minor", "invalid"),
        (came, "currency", "invalid"),
        (came, "shop", "missing"),
    ]
    [letter] = [one for one in queries.letters(LetterFilter()) if one["letter"] == "a"]
    assert letter["contract"] == came
