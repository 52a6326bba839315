"""What the page asks a ledger, in SQLite and in PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail_console.database import Place, TookTooLong
from handrail_console.ledger import Ledger
from handrail_console.measures import Measures
from handrail_console.owners import About, Owners
from handrail_console.queries import Queries
from handrail_console.web import looks
from handrail_console.web.chart import trend
from handrail_console.web.health import Open, Verdict, judge
from sqlalchemy import text

START = 1_767_261_723_000
MIN = 60_000
INGEST = "order-to-invoice.ingest.orders.order-accepted"
OWNERS = Owners({"order-to-invoice": About("billing-ops", "Invoices.")}, {"crm": About("crm-team")})
ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS c FROM n",
    "postgresql": "SELECT pg_sleep(60)",
}


@pytest.fixture
def queries(place: Place, contracts: Contracts, records: Any) -> Any:
    letters = [("1", "a", "order-to-invoice", "order-to-invoice.decision", "OPEN")] * 1
    letters += [
        ("2", "a", "order-to-invoice", "order-to-invoice.decision", "REPLAYING"),
        ("3", "a", "order-to-invoice", "order-to-invoice.decision", "RESOLVED"),
        ("4", "b", None, INGEST, "OPEN"),
        ("5", "c", None, "action.crm", "OPEN"),
    ]
    batch = [
        records.transition(1, "failed", "outcome", failure_class="business", step="invoice", reason="no"),
        records.task(due_at=START + 10 * MIN),
        records.task(task="second", due_at=None, kind="manual"),
        records.task(task="third", state="done"),
    ]
    for number, (letter, fingerprint, flow, stage, state) in enumerate(letters):
        at = START + number * MIN
        told = {"fingerprint": fingerprint, "flow": flow, "stage": stage, "failed_at": at, "first_failed_at": at}
        batch.append(records.letter(letter=letter, run=None, **told))
        if state != "OPEN":
            batch.append(records.letter_state(state, letter=letter, at=at + 1))
    with Ledger(place, contracts) as ledger:
        ledger.apply(batch, reached={})
        opened = Queries.open(place, within_s=20)
        yield opened
        opened.close()


def test_incidents_are_open_letters_that_failed_alike_with_whose_they_are(queries: Queries) -> None:
    found = looks.incidents(queries, OWNERS, 10)
    told = [(one["fingerprint"], one["count"], one["letter"], one["state"], one["owner"]) for one in found]
    assert told == [
        ("a", 2, "1", "OPEN", "billing-ops"),
        ("b", 1, "4", "OPEN", "billing-ops"),
        ("c", 1, "5", "OPEN", "crm-team"),
    ]
    assert (found[0]["first_seen"], found[0]["last_seen"]) == (START, START + MIN)
    assert found[0]["next"] == [
        "a rule of the other side said no: settle it there",
        "then: handrail dlq replay 1",
        "when that went through, all of their class: handrail dlq replay --all --flow order-to-invoice --class business",
        'or, when nothing needs to be done: handrail dlq discard 1 --reason "…"',
    ]
    assert [one["fingerprint"] for one in looks.incidents(queries, OWNERS, 2)] == ["a", "b"]


def test_what_stands_open_is_counted_by_flow(queries: Queries) -> None:
    found = looks.open_of(queries, OWNERS, looks.alerts(queries), START + 20 * MIN)
    assert found == {
        "order-to-invoice": Open(letters=2, letters_since=START, tasks=2, overdue=1),
        "action.crm": Open(letters=1, letters_since=START + 4 * MIN),
    }


def test_tasks_that_are_due_first_come_first(queries: Queries) -> None:
    assert [one["task"][:6] for one in looks.tasks(queries, 10)] == ["3f2a91", "second"]
    assert len(looks.tasks(queries, 1)) == 1


def test_every_page_can_be_made(queries: Queries) -> None:
    now = START + 20 * MIN
    measured, watching = looks.measure_all(queries, START - MIN, now), looks.watching(queries, now)
    assert [(one.flow, one.verdict) for one in looks.overview(queries, OWNERS, measured, watching.alerts, now)] == [
        ("action.crm", Verdict.ACT),
        ("order-to-invoice", Verdict.ACT),
    ]
    one = looks.flow(
        queries, OWNERS, "order-to-invoice", looks.measure_one(queries, "order-to-invoice", START - MIN, now), now
    )
    assert one is not None
    assert [part.name for part in one.weeks] == ["2025-12-29"]
    assert looks.flow(queries, OWNERS, "nobody", looks.measure_one(queries, "nobody", START, now), now) is None
    assert looks.runs(queries, ["failed"], "order-to-invoice", "", (START + 1, "")).in_all == 1
    assert looks.run(queries, "nobody", START) is None


def test_what_takes_too_long_is_ended(place: Place, contracts: Contracts) -> None:
    Ledger(place, contracts).close()
    queries = Queries.open(place, within_s=0.2)
    try:
        with pytest.raises(TookTooLong, match="did not answer in time"):
            queries.all(text(ENDLESS[place.url.get_backend_name()]))  # type: ignore[arg-type]
    finally:
        queries.close()


def test_a_flow_needs_a_person_for_what_no_machine_finishes() -> None:
    quiet, busy = Measures("f", None), Measures("f", None)
    busy.runs["done"] = 1_234
    stuck = Measures("f", None, recovery=[None, None, 5])
    stuck.runs["failed"] = 2
    assert judge(quiet, Open(), 0) == (Verdict.QUIET, ())
    assert judge(busy, Open(), 0) == (Verdict.WELL, ())
    assert judge(busy, Open(alerts=("it stands",), tasks=1), 0) == (Verdict.ACT, ("it stands", "1 open task"))
    assert judge(busy, Open(tasks=1), 0) == (Verdict.WAITS, ("1 open task",))
    assert judge(busy, Open(tasks=3, overdue=1), 0) == (Verdict.ACT, ("1 overdue task", "2 open tasks"))
    assert judge(stuck, Open(), 0) == (Verdict.ACT, ("2 failures without an answer",))
    assert judge(stuck, Open(letters=1_500, letters_since=0), 3 * 3_600_000) == (
        Verdict.ACT,
        ("1,500 open dead letters, the oldest for 3 h",),
    )


def test_the_trend_is_of_the_last_twelve_weeks_and_never_without_a_gap() -> None:
    weeks = {"2025-01-06": (10, 10), "2025-12-01": (10, 0), "2025-12-22": (10, 5), "2025-12-29": (4, 1)}
    made = trend(weeks)
    assert [bar.height for bar in made.bars] == [None] * 7 + [2.0, None, None, 32.0, 17.0]
    assert made.text == "Failed runs by week. 2025-12-01: 0 %; 2025-12-22: 50 %; 2025-12-29: 25 %"
    assert made.highest == "50 %"
    assert trend({}).text == "no runs"
    assert trend({"2025-12-29": (0, 3)}).highest == "100 %"
