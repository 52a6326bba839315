"""What flows are for and what they take of people: a history that can be computed by hand, in SQLite and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from handrail.contracts import Contracts
from handrail_console.commands.measures import measures
from handrail_console.database import Place
from handrail_console.ledger import Ledger
from handrail_console.measures import measure
from handrail_console.queries import Queries
from sqlalchemy import text

START = 1_767_261_723_000  # Thursday, 2026-01-01 10:02:03 UTC
MIN = 60_000
WEEK = 7 * 24 * 60  # minutes
FIRST, SECOND = "2025-12-29", "2026-01-05"  # the Mondays
FLOW = "order-to-invoice"
FAILED = {"step": "invoice", "failure_class": "business"}
DONE = {"step": "invoice"}
app = typer.Typer()
app.command()(measures)

Step = tuple[int, str, str, dict[str, Any]]


def run(records: Any, name: str, segment: str, amount: float, unit: str, *steps: Step, **first: Any) -> list[Any]:
    """A run whose invoice should be there within ten minutes of its beginning. Each step begins with its minute."""
    nothing = dict.fromkeys(("amount", "unit", "step", "since", "within_ms"))
    outcomes = [
        nothing
        | {"name": "time-to-invoice", "step": "invoice", "since": START + steps[0][0] * MIN, "within_ms": 10 * MIN},
        nothing | {"name": "time-to-end", "since": START + steps[0][0] * MIN},
        nothing | {"name": "value", "amount": amount, "unit": unit},
    ]
    told = []
    for sequence, (minute, state, event, fields) in enumerate(steps, 1):
        about = {"segments": {"segment": segment}, "outcomes": outcomes, **first} if sequence == 1 else {}
        told.append(
            records.transition(
                sequence, state, event, **({"run": name, "route": name, "at": START + minute * MIN} | about | fields)
            )
        )
    return told


def history(records: Any) -> list[Any]:
    """Eight runs with an amount each, four orders of people, two versions, a review, two alerts.

    In the first week: A is invoiced after 4 minutes and done after 6; B after 12 (late), having been replayed; C is rejected;
    D has failed and nobody has done anything; E has failed and its letter is discarded; F waits for a person; G was
    finished by hand after 30 minutes. In the second, of version 2: H is under way.
    """
    begin: Step = (0, "prepared", "prepared", {})
    late: Step = (WEEK, "prepared", "prepared", {})
    told = [
        *run(
            records, "A", "AUTO", 100.0, "EUR", begin, (4, "acting", "outcome", DONE),
            (6, "done", "outcome", {"step": "crm"}),
        ),
        *run(
            records, "B", "AUTO", 10.5, "EUR", begin, (3, "failed", "outcome", FAILED), (8, "acting", "replay", DONE),
            (12, "acting", "outcome", DONE), (13, "done", "outcome", {"step": "crm"}),
        ),
        *run(records, "C", "AUTO", 7.0, "EUR", begin, (1, "rejected", "decision", {})),
        *run(records, "D", "HOME", 1_000.0, "EUR", begin, (5, "failed", "outcome", FAILED)),
        *run(records, "E", "HOME", 50.0, "USD", begin, (5, "failed", "outcome", FAILED)),
        *run(records, "F", "HOME", 200.0, "EUR", begin, (5, "manual", "outcome", FAILED | {"task": "F"})),
        *run(
            records, "G", "HOME", 400.0, "EUR", begin, (5, "manual", "outcome", FAILED | {"task": "G"}),
            (30, "done-by-hand", "human-decision", DONE | {"task": "G"}),
        ),
        *run(records, "H", "AUTO", 3.0, "EUR", late, version=2),
    ]  # fmt: skip
    told.append(records.letter(letter="L", run="E", step="invoice", flow=FLOW, failed_at=START, first_failed_at=START))
    told.append(records.letter_state("DISCARDED", letter="L", at=START + 20 * MIN))
    of_task = {"letter": None, "generation": None}
    told += [
        records.ordered("done", **of_task, task="G", run="G", minutes=12, at=START + 30 * MIN),
        records.ordered("done", **of_task, task="G", run="G", minutes=12, at=START + 31 * MIN),  # a double click
        records.ordered("discard", letter="L", run=None, flow=None, minutes=None, at=START + 20 * MIN),
        records.ordered(
            "discard", letter="L", run=None, flow=None, minutes=9, at=START + 21 * MIN, refused="DISCARDED"
        ),
        records.ordered("review", **of_task, run=None, minutes=45, at=START + WEEK * MIN),
        records.alert(alert="a", flow=FLOW, since=START, at=START + 25 * MIN, state="RESOLVED"),
        records.alert(alert="a", flow=FLOW, since=START + WEEK * MIN, at=START + WEEK * MIN),
        records.alert(alert="b", flow=None, since=START, at=START),
        records.task(task="G", run="G", group="billing-ops", at=START + 5 * MIN),
        records.task(task="G", run="G", group="billing-ops", at=START + 30 * MIN, state="done"),
        records.task(task="F", run="F", group="billing-ops", at=START + 5 * MIN),
    ]
    return told


@pytest.fixture
def queries(place: Place, contracts: Contracts, records: Any) -> Iterator[Queries]:
    told = history(records)
    with Ledger(place, contracts) as ledger:
        ledger.apply(told)
        ledger.apply(told)  # again, as after a crash
    opened = Queries.open(place)
    yield opened
    opened.close()


def rows(queries: Queries, view: str) -> list[tuple[Any, ...]]:
    """All of a view, in order, without the flow."""
    found = [tuple(row.values()) for row in queries.all(text(f"SELECT * FROM {view} ORDER BY 1, 2, 3, 4, 5"))]
    assert {row[0] for row in found} == {FLOW}
    return [row[1:] for row in found]


def test_how_long_it_took_until_it_was_there(queries: Queries) -> None:
    """Invoices after 4, 12 and 30 minutes; D and F are still waited for, E was given up, C did not want it. Ends after 6,
    13 and 30.
    """
    found = rows(queries, "measure_outcome_times")
    assert found[:4] == [
        ("all", FIRST, "time-to-end", 3, 2, START, 1, 1, 0, 0, 30 * MIN, None),
        ("all", FIRST, "time-to-invoice", 3, 2, START, 1, 1, 6, 1, 30 * MIN, None),
        ("all", SECOND, "time-to-end", 0, 1, START + WEEK * MIN, 0, 0, 0, 0, None, None),
        ("all", SECOND, "time-to-invoice", 0, 1, START + WEEK * MIN, 0, 0, 1, 0, None, None),
    ]
    assert ("segment=AUTO", FIRST, "time-to-invoice", 2, 0, None, 0, 1, 2, 1, 4 * MIN, 12 * MIN) in found


def test_amounts_stand_where_their_runs_stand_and_units_are_not_added(queries: Queries) -> None:
    assert rows(queries, "measure_amounts") == [
        ("all", FIRST, "value", "EUR", 6, 510.5, 0.0, 1_200.0, 7.0),
        ("all", FIRST, "value", "USD", 1, 0.0, 0.0, 0.0, 50.0),
        ("all", SECOND, "value", "EUR", 1, 0.0, 3.0, 0.0, 0.0),
        ("segment=AUTO", FIRST, "value", "EUR", 3, 110.5, 0.0, 0.0, 7.0),
        ("segment=AUTO", SECOND, "value", "EUR", 1, 0.0, 3.0, 0.0, 0.0),
        ("segment=HOME", FIRST, "value", "EUR", 3, 400.0, 0.0, 1_200.0, 0.0),
        ("segment=HOME", FIRST, "value", "USD", 1, 0.0, 0.0, 0.0, 50.0),
    ]


def test_minutes_are_those_that_people_tell_each_order_once(queries: Queries) -> None:
    """The second `done` of G and the refused discard count for nothing; the run of a closed letter is still known; a review
    is no work on runs.
    """
    assert rows(queries, "measure_work") == [
        ("all", FIRST, "discard", 1, 0, None),
        ("all", FIRST, "done", 1, 1, 12),
        ("segment=HOME", FIRST, "discard", 1, 0, None),
        ("segment=HOME", FIRST, "done", 1, 1, 12),
    ]


def test_upkeep_is_changes_reviews_and_incidents(queries: Queries) -> None:
    """Version 2 is the change: the first version is none. The alert of no flow is nobody's."""
    assert rows(queries, "measure_upkeep") == [
        (FIRST, 0, 0, None, 1, 0, 25 * MIN),
        (SECOND, 1, 1, 45, 1, 1, None),
    ]


def test_manual_work_that_was_given_up_is_no_longer_at_risk(place: Place, contracts: Contracts, records: Any) -> None:
    begin: Step = (0, "prepared", "prepared", {})
    manual: Step = (5, "manual", "outcome", FAILED | {"task": "T"})
    given_up: Step = (9, "failed", "human-decision", {"step": "invoice", "task": "T"})
    with Ledger(place, contracts) as ledger:
        ledger.apply(run(records, "A", "AUTO", 100.0, "EUR", begin, manual, given_up))
    asked = Queries.open(place)
    assert rows(asked, "measure_amounts")[0][4:] == (1, 0, 0, 0, 100.0)
    found = rows(asked, "measure_outcome_times")
    assert [row[2:8] for row in found if row[0] == "all"] == [
        (name, 0, 0, None, 1, 0) for name in ("time-to-end", "time-to-invoice")
    ]
    asked.close()


@pytest.mark.parametrize(
    ("letter_state", "standing"),
    [(None, "at_risk"), ("OPEN", "at_risk"), ("DISCARDED", "given_up"), ("RESOLVED", "under_way")],
)
def test_a_run_that_goes_on_only_when_its_dead_letter_does_is_at_risk(
    place: Place, contracts: Contracts, records: Any, letter_state: str | None, standing: str
) -> None:
    """A mapping raised at an outcome: the message is a dead letter, the run is as it was."""
    told = run(records, "A", "AUTO", 1.0, "EUR", (0, "prepared", "prepared", {}), (1, "acting", "next", DONE))
    told.append(records.letter(letter="L", run="A", step="invoice", flow=FLOW, failed_at=START, first_failed_at=START))
    if letter_state:
        told.append(records.letter_state(letter_state, letter="L"))
    with Ledger(place, contracts) as ledger:
        ledger.apply(told)
    asked = Queries.open(place)
    assert [row["standing"] for row in asked.all(text("SELECT standing FROM run_standings"))] == [standing]
    asked.close()


@pytest.mark.parametrize(("event", "took"), [("skipped", None), ("next", 9 * MIN)])
def test_who_finishes_a_run_by_hand_has_not_made_what_it_left_out(
    place: Place, contracts: Contracts, records: Any, event: str, took: int | None
) -> None:
    steps: tuple[Step, ...] = (
        (0, "prepared", "prepared", {}),
        (0, "prepared" if event == "skipped" else "acting", event, DONE),
        (5, "manual", "outcome", {"step": "crm", "failure_class": "unknown_outcome", "task": "T"}),
        (9, "done-by-hand", "human-decision", {"step": "crm", "task": "T"}),
    )
    with Ledger(place, contracts) as ledger:
        ledger.apply(run(records, "A", "AUTO", 1.0, "EUR", *steps))
    asked = Queries.open(place)
    found = asked.all(text("SELECT took_ms FROM outcome_times WHERE outcome = 'time-to-invoice'"))
    assert [row["took_ms"] for row in found] == [took]
    asked.close()


def test_an_approval_can_be_what_is_waited_for(place: Place, contracts: Contracts, records: Any) -> None:
    begin: Step = (0, "prepared", "prepared", {})
    asked_for: Step = (1, "waiting", "next", {"step": "invoice", "task": "T"})
    yes: Step = (7, "waiting", "human-decision", {"step": "invoice", "task": "T"})
    with Ledger(place, contracts) as ledger:
        ledger.apply(run(records, "A", "AUTO", 1.0, "EUR", begin, asked_for, yes))
    asked = Queries.open(place)
    took = asked.all(text("SELECT took_ms FROM outcome_times WHERE outcome = 'time-to-invoice'"))
    assert [row["took_ms"] for row in took] == [7 * MIN]
    asked.close()


def test_what_the_command_says_is_what_the_views_say(queries: Queries) -> None:
    cases = queries.cases(0)
    for group in [*measure(cases, "week"), *measure(cases, "segment")]:
        told = group.told()
        times = {one["outcome"]: one for one in told["outcomes"]["times"]}
        amounts = {(one["outcome"], one["unit"]): one for one in told["outcomes"]["amounts"]}
        for row in _of(group.part, rows(queries, "measure_outcome_times")):
            one = times[row[2]]
            names = ("reached", "still_open", "oldest_open_since", "given_up", "not_wanted", "promised", "kept")
            names = (*names, "p50_ms", "p95_ms")
            if "=" not in group.part:
                assert row[3:] == tuple(one[name] for name in names)
        for row in _of(group.part, rows(queries, "measure_amounts")):
            if "=" not in group.part:
                assert row[4:] == tuple(
                    amounts[row[2:4]][name] for name in ("runs", "done", "under_way", "at_risk", "given_up")
                )
        if "=" in group.part:
            assert told["upkeep"] is None
        else:
            (row,) = [row for row in rows(queries, "measure_upkeep") if row[0] == group.part]
            upkeep = told["upkeep"]
            lasted = upkeep["incidents"]
            assert (row[1], row[2], row[3] or 0) == (upkeep["changes"], upkeep["reviews"], upkeep["review_minutes"])
            assert (row[4], row[5], row[6] or 0) == (lasted["all"], lasted["still_open"], lasted["lasted_ms"])


def _of(part: str | None, found: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [row for row in found if row[0] == part or (row[0] == "all" and row[1] == part)]


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_all_of_it_as_json(queries: Queries, desk: Any) -> None:
    [told] = json.loads(desk(app, "--json").output)["measures"]
    to_invoice = {
        "outcome": "time-to-invoice", "reached": 3, "still_open": 3, "oldest_open_since": START, "given_up": 1,
        "not_wanted": 1, "p50_ms": None, "p95_ms": None, "promised": 7, "kept": 1, "kept_share": 1 / 7,
    }  # fmt: skip
    assert told["outcomes"]["times"][1] == to_invoice
    assert told["outcomes"]["amounts"] == [
        {
            "outcome": "value",
            "unit": "EUR",
            "runs": 7,
            "done": 510.5,
            "under_way": 3.0,
            "at_risk": 1_200.0,
            "given_up": 7.0,
        },
        {"outcome": "value", "unit": "USD", "runs": 1, "done": 0, "under_way": 0, "at_risk": 0, "given_up": 50.0},
    ]
    assert told["work"] == {
        "orders": 2, "told": 1, "minutes": 12, "orders_by_what": {"discard": 1, "done": 1},
        "minutes_by_what": {"done": 12},
    }  # fmt: skip
    assert told["upkeep"] == {
        "changes": 1,
        "reviews": 1,
        "review_minutes": 45,
        "incidents": {"all": 2, "still_open": 1, "lasted_ms": 25 * MIN},
        "waiting": [{"owner": "billing-ops", "tasks": 2, "still_open": 1, "p50_ms": 25 * MIN, "p95_ms": None}],
    }


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_all_of_it_as_tables(queries: Queries, desk: Any) -> None:
    output = desk(app).output
    for told in (
        "not yet (not yet)", "1 of 7 (14.2 %)", "510.50", "1,200", "12 of 2 orders, 1 of which say none",
        "billing-ops 25 min (not yet)", "1, 45 min", "2, 25 min, 1 going on",
    ):  # fmt: skip
        assert told in output, told
    by_segment = desk(app, "--by", "segment").output
    assert "segment=HOME" in by_segment
    assert "going on" not in by_segment, "incidents are of flows, not of segments"
    assert "value" not in desk(app, "--since", "2026-01-12").output
