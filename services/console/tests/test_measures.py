"""The measures of a history that is short enough to be computed by hand, in SQLite and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from handrail.contracts import Contracts
from handrail_console.arithmetic import quantile, sparkline
from handrail_console.commands.measures import measures
from handrail_console.database import Place
from handrail_console.ledger import Ledger
from handrail_console.measures import measure
from handrail_console.queries import Queries
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.event import listens_for

START = 1_767_261_723_000  # Thursday, 2026-01-01 10:02:03 UTC
MIN = 60_000
WEEK = 7 * 24 * 60  # minutes
FIRST, SECOND = "2025-12-29", "2026-01-05"  # the Mondays
FLOW = "order-to-invoice"
INGEST = f"{FLOW}.ingest.orders.order-accepted"
app = typer.Typer()
app.command()(measures)


class History:
    """Runs told in minutes since START."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self.all: list[Any] = []

    def run(self, name: str, segment: str, *steps: tuple[int, str, str, dict[str, Any]]) -> None:
        """Each step: minute, state, event, and fields of the transition."""
        for sequence, (minute, state, event, fields) in enumerate(steps, 1):
            first = {"segments": {"segment": segment}} if sequence == 1 else {}
            told = {"run": name, "route": name, "at": START + minute * MIN, "segments": {}} | first | fields
            self.all.append(self._records.transition(sequence, state, event, **told))

    def letter(self, name: str, minute: int, **fields: Any) -> None:
        at = START + minute * MIN
        bad = {"stage": INGEST, "flow": None, "run": None, "step": None, "failure_class": "contract"}
        self.all.append(self._records.letter(letter=name, failed_at=at, first_failed_at=at, **(bad | fields)))

    def closed(self, name: str, minute: int, state: str, **fields: Any) -> None:
        self.all.append(self._records.letter_state(state, letter=name, at=START + minute * MIN, **fields))

    def duplicates(self, minute: int, number: int, stage: str, flow: str | None) -> None:
        body = {"stage": stage, "flow": flow, "counts": {"duplicates": number}, "at": START + minute * MIN}
        self.all.append(self._records.of("stats", stage, body))

    def repeat(self, name: str, sequence: int, minute: int, state: str, event: str) -> None:
        told = {"run": name, "route": name, "at": START + minute * MIN, "segments": {}}
        self.all.append(self._records.transition(sequence, state, event, **told))


def history(records: Any) -> list[Any]:
    """Seven runs, two events that became none, five duplicates.

    In the first week: B1 is done after 2 minutes; B2 after 3, its call having failed for 2; A3 fails at 10 and is replayed
    and done at 80; A4 fails at 5, goes to a person at 15, who has done it at 45; B5 fails at 20 and is open. L1 breaks its
    contract at 30 and is discarded at 90; L2 at 40, and its replay went through at 100. Four duplicates are dropped, three
    at transform and one at ingest; one step of B1 is seen twice. In the second: B6 goes to review after 1 minute, and
    somebody has done it 60 minutes later; B7 is under way.
    """
    told = History(records)
    outcome: dict[str, Any] = {"step": "invoice", "attempts": 1}
    begin = ("prepared", "prepared", {})

    def failed(minute: int, failure_class: str) -> dict[str, Any]:
        return {**outcome, "failure_class": failure_class, "first_failure_at": START + minute * MIN}

    told.run("B1", "BUILDING", (0, *begin), (1, "acting", "next", {"step": "invoice"}), (2, "done", "outcome", outcome))
    late = {**outcome, "attempts": 3, "first_failure_at": START + 1 * MIN}
    told.run("B2", "BUILDING", (0, *begin), (1, "acting", "next", {"step": "invoice"}), (3, "done", "outcome", late))
    first = {"step": "invoice", "first_failure_at": START + 10 * MIN}
    told.run(
        "A3",
        "AUTO",
        (0, *begin),
        (10, "failed", "outcome", failed(10, "business")),
        (70, "acting", "replay", first),
        (80, "done", "outcome", {**outcome, **first}),
    )
    by_ann = {"task": "T4", "actor": "ann"}
    told.run(
        "A4",
        "AUTO",
        (0, *begin),
        (15, "manual", "outcome", failed(5, "unknown_outcome") | {"task": "T4"}),
        (45, "done-by-hand", "human-decision", {**by_ann, "step": "invoice", "first_failure_at": START + 5 * MIN}),
    )
    told.run("B5", "BUILDING", (0, *begin), (20, "failed", "outcome", failed(20, "transient")))
    told.letter("L5", 20, run="B5", flow=FLOW, step="invoice", stage=f"{FLOW}.decision", failure_class="transient")
    told.letter("L1", 30)
    told.closed("L1", 90, "DISCARDED")
    told.letter("L2", 40)
    told.closed("L2", 100, "RESOLVED", replays=1)
    told.duplicates(3, 3, f"{FLOW}.transform", FLOW)
    told.duplicates(4, 1, INGEST, None)
    told.repeat("B1", 2, 1, "acting", "next")
    told.run(
        "B6",
        "BUILDING",
        (WEEK, *begin),
        (WEEK + 1, "waiting", "decision", {"step": "review", "task": "T6"}),
        (WEEK + 61, "done-by-hand", "human-decision", {"step": "review", "task": "T6", "actor": "bob"}),
    )
    told.run("B7", "BUILDING", (WEEK, *begin))
    tasks = [("T4", "billing-ops", 15, 45), ("T6", "credit", WEEK + 1, WEEK + 61)]
    for task, group, opened, closed in tasks:
        told.all.append(records.task(task=task, group=group, at=START + opened * MIN))
        told.all.append(records.task(task=task, group=group, at=START + closed * MIN, state="done"))
    told.all.append(records.task(task="T9", group="credit", at=START + (WEEK + 5) * MIN))
    return told.all


@pytest.fixture
def queries(place: Place, contracts: Contracts, records: Any) -> Iterator[Queries]:
    with Ledger(place, contracts) as ledger:
        ledger.apply(history(records))
    opened = Queries.open(place)
    yield opened
    opened.close()


def rows(queries: Queries, view: str) -> list[tuple[Any, ...]]:
    """All of a view, in order; the first column, the flow, is that of the history and left out."""
    found = [tuple(row.values()) for row in queries.all(text(f"SELECT * FROM {view} ORDER BY 1, 2, 3, 4"))]
    assert {row[0] for row in found} == {FLOW}
    return [row[1:] for row in found]


def test_failed_runs_by_class(queries: Queries) -> None:
    """A3, A4, B5, and the two events that became no run and so have no segment. B2 was only tried again."""
    assert rows(queries, "measure_failed_runs") == [
        ("all", FIRST, "business", 1),
        ("all", FIRST, "contract", 2),
        ("all", FIRST, "transient", 1),
        ("all", FIRST, "unknown_outcome", 1),
        ("segment=AUTO", FIRST, "business", 1),
        ("segment=AUTO", FIRST, "unknown_outcome", 1),
        ("segment=BUILDING", FIRST, "transient", 1),
    ]


def test_time_to_recovery_with_what_is_still_open(queries: Queries) -> None:
    """All: 2 (B2, retry), 10 (A4, handed over), 60 (L2, replay), 70 (A3, replay), open (B5); L1 was discarded.

    Five count: half of them (3) were over within 60 minutes, 95 % (5) are not. AUTO: 10 and 70. BUILDING: 2 and one open.
    """
    assert rows(queries, "measure_recovery") == [
        ("all", FIRST, 6, 4, 1, 1, START + 20 * MIN, 1, 2, 1, 60 * MIN, None),
        ("segment=AUTO", FIRST, 2, 2, 0, 0, None, 0, 1, 1, 10 * MIN, 70 * MIN),
        ("segment=BUILDING", FIRST, 2, 1, 1, 0, START + 20 * MIN, 1, 0, 0, 2 * MIN, None),
    ]


def test_a_call_that_is_still_tried_again_is_open_since_its_first_failure_and_no_failed_run(
    place: Place, contracts: Contracts, records: Any
) -> None:
    told = History(records)
    failing = {"step": "invoice", "attempts": 1, "first_failure_at": START + 2 * MIN, "reason": "transient: a 503"}
    begin = [
        (0, "prepared", "prepared", {}),
        (1, "acting", "next", {"step": "invoice"}),
        (2, "acting", "failing", failing),
    ]
    told.run("A1", "AUTO", *begin)
    told.run("A2", "AUTO", *begin, (7, "done", "outcome", failing | {"attempts": 3, "reason": "invoice verified"}))
    with Ledger(place, contracts) as ledger:
        ledger.apply(told.all)
    queries = Queries.open(place)
    of_all = [row for row in rows(queries, "measure_recovery") if row[0] == "all"]
    assert of_all == [("all", FIRST, 2, 1, 1, 0, START + 2 * MIN, 1, 0, 0, 5 * MIN, None)]
    assert queries.all(text("SELECT * FROM measure_failed_runs")) == []
    queries.close()


def test_duplicate_prevention(queries: Queries) -> None:
    """Four stopped, one found later: 4 / 5."""
    assert rows(queries, "measure_duplicates") == [("all", FIRST, 4, 1, 0.8)]


def test_a_run_that_went_its_way_twice_is_one_duplicate_that_was_found(
    place: Place, contracts: Contracts, records: Any
) -> None:
    """Of two runs one came twice, with three steps, and one three times, with two: three runs too many."""
    told = History(records)
    steps = [(n, "acting", "next", {"step": "invoice"}) for n in range(3)]
    for _ in range(2):
        told.run("A1", "AUTO", *steps)
    for _ in range(3):
        told.run("A2", "AUTO", *steps[:2])
    told.duplicates(3, 9, INGEST, None)
    with Ledger(place, contracts) as ledger:
        ledger.apply(told.all)
    asked = Queries.open(place)
    assert rows(asked, "measure_duplicates") == [("all", FIRST, 9, 3, 0.75)]
    assert [group.found for group in measure(asked.cases(0), None)] == [3]
    asked.close()


def test_what_is_not_known_is_null_in_every_database(place: Place, contracts: Contracts, records: Any) -> None:
    """No duplicate came, and one of two runs finished by hand has lost the transition that asked for a person."""
    told = History(records)
    told.duplicates(3, 0, INGEST, None)
    done = (45, "done-by-hand", "human-decision", {"task": "T"})
    told.run("A1", "AUTO", (15, "manual", "outcome", {"task": "T"}), done)
    told.run("A2", "AUTO", done)
    with Ledger(place, contracts) as ledger:
        ledger.apply(told.all)
    asked = Queries.open(place)
    assert rows(asked, "measure_duplicates") == [("all", FIRST, 0, 0, None)]
    assert rows(asked, "measure_manual")[0] == ("all", FIRST, 2, 2, 1.0, 30 * MIN, None)
    [group] = measure(asked.cases(0), None)
    assert (quantile(group.by_hand, 50), quantile(group.by_hand, 95)) == (30 * MIN, None)
    asked.close()


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("view", "index"), [("by_hand", "transitions_by_hand"), ("measured_duplicates", "transitions_repeated")]
)
def test_the_few_rows_that_count_are_found_without_reading_all(queries: Queries, view: str, index: str) -> None:
    plan = queries.all(text(f"EXPLAIN QUERY PLAN SELECT * FROM {view}"))
    assert any(index in row["detail"] for row in plan), plan


def test_manual_fallback(queries: Queries) -> None:
    """First week: B1, B2, A3 and A4 are finished, A4 by hand after 30 minutes. Second: B6 after 60; B7 is under way."""
    assert rows(queries, "measure_manual") == [
        ("all", FIRST, 4, 1, 0.25, 30 * MIN, 30 * MIN),
        ("all", SECOND, 1, 1, 1.0, 60 * MIN, 60 * MIN),
        ("segment=AUTO", FIRST, 2, 1, 0.5, 30 * MIN, 30 * MIN),
        ("segment=BUILDING", FIRST, 2, 0, 0.0, None, None),
        ("segment=BUILDING", SECOND, 1, 1, 1.0, 60 * MIN, 60 * MIN),
    ]
    told = queries.all(text("SELECT run, why, asked_at, done_at, actor FROM by_hand ORDER BY run"))
    assert [tuple(row.values()) for row in told] == [
        ("A4", "unknown_outcome", START + 15 * MIN, START + 45 * MIN, "ann"),
        ("B6", "review", START + (WEEK + 1) * MIN, START + (WEEK + 61) * MIN, "bob"),
    ]


def test_how_runs_end_and_how_long_they_take(queries: Queries) -> None:
    """First week: 2, 3, 45 (A4), 80 (A3) minutes and B5, which is not over: of five, half within 45."""
    assert rows(queries, "measure_runs")[:2] == [
        ("all", FIRST, 5, 3, 1, 0, 1, 0, 0, 45 * MIN, None),
        ("all", SECOND, 2, 0, 1, 0, 0, 0, 1, 61 * MIN, None),
    ]


def test_who_is_waited_for(queries: Queries) -> None:
    assert rows(queries, "measure_waiting") == [
        ("billing-ops", FIRST, 1, 0, None, 30 * MIN, 30 * MIN, 30 * MIN),
        ("credit", SECOND, 2, 1, START + (WEEK + 5) * MIN, 60 * MIN, 60 * MIN, None),
    ]


def test_a_task_of_which_compaction_left_only_the_closing_has_waited_since_it_was_opened(
    place: Place, contracts: Contracts, records: Any
) -> None:
    """T4 of A4 from 15 to 45 min, T6 of B6 from the next week's 1 to 61 min: as if both records had been read."""
    told = History(records)
    told.run(
        "A4", "AUTO", (15, "manual", "outcome", {"task": "T4"}), (45, "done-by-hand", "human-decision", {"task": "T4"})
    )
    opened = (WEEK + 1, "waiting", "decision", {"task": "T6"})
    told.run("B6", "BUILDING", opened, (WEEK + 61, "waiting", "human-decision", {"task": "T6"}))
    for task, run, group, closed in (("T4", "A4", "billing-ops", 45), ("T6", "B6", "credit", WEEK + 61)):
        told.all.append(records.task(task=task, run=run, group=group, at=START + closed * MIN, state="done"))
    with Ledger(place, contracts) as ledger:
        ledger.apply(told.all)
    asked = Queries.open(place)
    assert rows(asked, "measure_waiting") == [
        ("billing-ops", FIRST, 1, 0, None, 30 * MIN, 30 * MIN, 30 * MIN),
        ("credit", SECOND, 1, 0, None, 60 * MIN, 60 * MIN, 60 * MIN),
    ]
    asked.close()


def test_the_command_comes_to_the_same_as_the_views(queries: Queries) -> None:
    cases = queries.cases(0)
    for group in [*measure(cases, "week"), *measure(cases, "segment")]:
        told = group.told()
        where = [row for row in rows(queries, "measure_recovery") if group.part in row[:2]]
        where = where if group.part and "=" in group.part else [row for row in where if row[0] == "all"]
        for row in where:
            recovery = told["time_to_recovery"]
            names = ("failures", "recovered", "still_open", "discarded", "oldest_open_at")
            assert row[2:7] == tuple(recovery[name] for name in names)
            assert row[10:] == (recovery["p50_ms"], recovery["p95_ms"])


def test_the_measures_are_of_one_moment_however_much_is_written_while_they_are_read(
    place: Place, contracts: Contracts, records: Any
) -> None:
    told = History(records)
    told.run("A1", "AUTO", (0, "prepared", "prepared", {}))
    late = History(records)
    late.run(
        "A2", "AUTO", (1, "manual", "outcome", {"task": "T"}), (2, "done-by-hand", "human-decision", {"task": "T"})
    )
    with Ledger(place, contracts) as ledger:
        ledger.apply(told.all)
        asked = Queries.open(place)

        @listens_for(asked._engine, "after_cursor_execute")
        def another_run_ends(_: object, __: object, statement: str, *___: object) -> None:
            if "measured_runs" in statement:  # the first one that is asked
                ledger.apply(late.all)

        [before] = measure(asked.cases(0), None)
        [after] = measure(asked.cases(0), None)
    assert (before.runs.total(), len(before.by_hand)) == (1, 0)
    assert (after.runs.total(), len(after.by_hand)) == (2, 1)
    asked.close()


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_all_measures_of_a_flow_as_json(queries: Queries, desk: Any) -> None:
    told = json.loads(desk(app, "--json", "--flow", FLOW).output)
    [of_flow] = told["measures"]
    assert of_flow == {
        "flow": FLOW,
        "part": None,
        "runs": {
            "begun": 7,
            "finished": 5,
            "by_state": {"done": 3, "done-by-hand": 2, "failed": 1, "prepared": 1},
        },
        "failed_runs": {"all": 5, "by_class": {"business": 1, "contract": 2, "transient": 1, "unknown_outcome": 1}},
        "time_to_recovery": {
            "failures": 6,
            "recovered": 4,
            "still_open": 1,
            "discarded": 1,
            "oldest_open_at": START + 20 * MIN,
            "by": {"retry": 1, "replay": 2, "manual": 1},
            "p50_ms": 60 * MIN,
            "p95_ms": None,
        },
        "duplicate_prevention": {"stopped": 4, "found_later": 1, "success": 0.8},
        "manual_fallback": {
            "by_hand": 2,
            "share": 0.4,
            "why": {"unknown_outcome": 1, "review": 1},
            "p50_ms": 30 * MIN,
            "p95_ms": 60 * MIN,
        },
        "outcomes": {"times": [], "amounts": []},
        "work": {"orders": 0, "told": 0, "minutes": 0, "orders_by_what": {}, "minutes_by_what": {}},
        "upkeep": {
            "changes": 0,
            "reviews": 0,
            "review_minutes": 0,
            "incidents": {"all": 0, "still_open": 0, "lasted_ms": 0},
            "waiting": [
                {"owner": "billing-ops", "tasks": 1, "still_open": 0, "p50_ms": 30 * MIN, "p95_ms": 30 * MIN},
                {"owner": "credit", "tasks": 2, "still_open": 1, "p50_ms": 60 * MIN, "p95_ms": None},
            ],
        },
        "trend": [{"week": FIRST, "runs": 5, "failed": 5}, {"week": SECOND, "runs": 2, "failed": 0}],
    }
    assert json.loads(desk(app, "--json", "--since", "2026-01-05").output)["measures"][0]["runs"]["begun"] == 2
    assert json.loads(desk(app, "--json", "--flow", "none").output)["measures"] == []


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_the_measures_as_a_table(queries: Queries, desk: Any) -> None:
    lines = desk(app, "--by", "week").output.splitlines()
    assert lines[0].split("  ")[0] == "FLOW"
    assert lines[1].split()[:4] == [FLOW, FIRST, "5", "5"]
    for told in ("2 contract", "60 min (not yet)", "4 (80 %)", "1 (25 %)", "1 discarded"):
        assert told in lines[1]
    assert lines[2].split()[:4] == [FLOW, SECOND, "2", "0"]
    output = desk(app).output
    assert "█▁" in output
    assert "2 (40 %)" in output
    segments = desk(app, "--by", "segment").output.splitlines()
    assert [line.split()[1] for line in segments[1:3]] == ["segment=AUTO", "segment=BUILDING"]
    assert "no runs began in that time" in desk(app, "--flow", "none").output
    assert desk(app, "--since", "soon").exit_code == 2


def test_an_empty_ledger_has_no_measures(desk: Any) -> None:
    assert "no runs began in that time" in desk(app).output


@pytest.mark.parametrize(
    ("took", "p50", "p95"),
    [
        ([], None, None),
        ([7], 7, 7),
        ([None], None, None),
        ([1, None], 1, None),
        ([1, None, None], None, None),
        (list(range(1, 21)), 10, 19),
        ([*range(1, 20), None], 10, 19),
    ],
)
def test_what_is_open_counts_as_longer_than_anything(took: list[int | None], p50: int | None, p95: int | None) -> None:
    assert (quantile(took, 50), quantile(took, 95)) == (p50, p95)


@given(st.lists(st.integers(0, 100), min_size=1), st.integers(1, 99))
def test_an_open_case_never_makes_a_measure_look_better(took: list[int], percent: int) -> None:
    before, after = quantile(took, percent), quantile([*took, None], percent)
    assert before is not None
    assert after is None or after >= before


def test_the_trend_shows_weeks_without_runs_as_gaps() -> None:
    weeks = {"2026-01-05": (10, 0), "2026-01-26": (10, 5), "2026-01-12": (10, 10)}
    assert sparkline(weeks) == "▁█·▅"
    assert sparkline({}) == ""
    assert sparkline({"2026-01-05": (3, 0)}) == "▁"


def test_a_week_in_which_all_was_refused_before_it_became_a_run_is_the_worst_one() -> None:
    assert sparkline({"2026-01-05": (100, 50), "2026-01-12": (0, 150), "2026-01-19": (2, 3)}) == "▅██"
