"""What waits for people, as Prometheus hears it: from the records to /metrics, on SQLite and PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.errors import StateError, Unreachable
from handrail.testing.clock import ManualClock
from handrail_console import backlog, figures
from handrail_console.backlog import Backlog
from handrail_console.database import Place
from handrail_console.follower import Follower, Seen, pause
from handrail_console.ledger import Ledger
from handrail_console.projection import Record
from handrail_console.source import Read
from prometheus_client import generate_latest
from sqlalchemy import event, text

START = 1_767_261_723_000  # as in conftest.py
HOUR = 3_600_000
OPEN, OLDEST, TASKS = (
    "handrail_dead_letters_open",
    "handrail_dead_letter_oldest_age_seconds",
    "handrail_tasks_open",
)
ONE, TWO, THREE = (f"9c1d2e3f-0000-5000-8000-00000000000{number}" for number in (1, 2, 3))


@pytest.fixture
def ledger(place: Place, contracts: Contracts) -> Iterator[Ledger]:
    with Ledger(place, contracts) as made:
        yield made


class Look:
    """A follower, what is given to it, and what stands at its /metrics."""

    def __init__(self, ledger: Any, until_next: Callable[[float], float] = lambda _: 0.0) -> None:
        self.clock = ManualClock(START)
        self._follower = Follower(ledger, None, until_next=until_next)  # type: ignore[arg-type]
        self._registry = figures.registry(lambda: self._follower.seen, self.clock)
        self._records: list[Record] = []

    @property
    def seen(self) -> Seen:
        return self._follower.seen

    async def after(self, *records: Record) -> dict[str, float]:
        self._records = list(records)
        await self._follower.step(self)  # type: ignore[arg-type]
        return self.metrics()

    async def read(self, *_: object) -> Read:
        return Read(self._records, {}, {})

    def metrics(self) -> dict[str, float]:
        """Those of here, by name and labels."""
        told = generate_latest(self._registry).decode()
        found = re.findall(r"^(handrail_(?:dead_letter|tasks)\S+) (\S+)$", told, re.MULTILINE)
        return {name: float(value) for name, value in found}


def of(flow: str, failure_class: str) -> str:
    return f'{OPEN}{{class="{failure_class}",flow="{flow}"}}'


def oldest(flow: str) -> str:
    return f'{OLDEST}{{flow="{flow}"}}'


async def test_open_letters_are_counted_by_flow_and_class_with_the_age_of_the_oldest(
    ledger: Ledger, records: Any
) -> None:
    look = Look(ledger)
    assert look.metrics() == {}  # nothing was counted: 0 would be a claim
    look.clock.advance(2 * HOUR)
    refund = {"flow": "refund", "stage": "refund.decision"}
    told = await look.after(
        records.letter(letter=ONE, failed_at=START + HOUR),  # it failed again: it is as old as its first failure
        records.letter_state("OPEN", letter=ONE),
        records.letter(letter=TWO, failure_class="contract", first_failed_at=START + HOUR, failed_at=START + HOUR),
        records.letter(letter=THREE, first_failed_at=START + HOUR, failed_at=START + HOUR, **refund),
    )
    assert told == {
        of("order-to-invoice", "business"): 1,
        of("order-to-invoice", "contract"): 1,
        of("refund", "business"): 1,
        oldest("order-to-invoice"): 7200,
        oldest("refund"): 3600,
    }


async def test_what_was_replayed_discarded_or_removed_is_no_longer_open_but_0(ledger: Ledger, records: Any) -> None:
    look = Look(ledger)
    look.clock.advance(HOUR)
    each = [records.letter(letter=one, first_failed_at=START + number) for number, one in enumerate((ONE, TWO, THREE))]
    name, age = of("order-to-invoice", "business"), oldest("order-to-invoice")
    assert await look.after(*each) == {name: 3, age: 3600}
    assert await look.after(records.letter_state("REPLAYING", letter=ONE)) == {name: 2, age: 3599.999}
    assert await look.after(records.letter_state("DISCARDED", letter=TWO)) == {name: 1, age: 3599.998}
    assert await look.after(records.raw("dead-letters", THREE, None)) == {name: 0, age: 0}


async def test_a_letter_that_failed_again_after_its_replay_is_open_again(ledger: Ledger, records: Any) -> None:
    look, name = Look(ledger), of("order-to-invoice", "business")
    assert await look.after(records.letter(), records.letter_state("REPLAYING")) == {}
    assert (await look.after(records.letter(generation=2)))[name] == 1
    assert (await look.after(records.letter_state("RESOLVED", generation=2)))[name] == 0


async def test_a_letter_without_a_flow_counts_for_that_of_its_stage(ledger: Ledger, records: Any) -> None:
    told = await Look(ledger).after(
        records.letter(letter=ONE, flow=None, stage="order-to-invoice.ingest.erp", failure_class="poison"),
        records.letter(letter=TWO, flow="order-to-invoice", failure_class="poison"),
        records.letter(letter=THREE, flow=None, stage="action.billing", failure_class="poison"),
    )
    assert told[of("order-to-invoice", "poison")] == 2
    assert told[of("no-flow", "poison")] == 1


async def test_open_tasks_are_counted_by_flow(ledger: Ledger, records: Any) -> None:
    look, name = Look(ledger), f'{TASKS}{{flow="order-to-invoice"}}'
    assert await look.after(records.task(), records.task(task=TWO)) == {name: 2}
    assert await look.after(records.task(state="approved"), records.raw("tasks", TWO, None)) == {name: 0}


async def test_the_age_grows_also_while_nobody_counts_and_is_never_negative(ledger: Ledger, records: Any) -> None:
    look = Look(ledger)
    await look.after(records.letter())
    look.clock.advance(90_000)
    assert look.metrics()[oldest("order-to-invoice")] == 90
    look.clock.advance(-95_000)
    assert look.metrics()[oldest("order-to-invoice")] == 0


async def test_nothing_of_a_message_is_a_label(ledger: Ledger, records: Any) -> None:
    told = await Look(ledger).after(records.letter(), records.task())
    assert {label for name in told for label in re.findall(r'(\w+)="', name)} == {"flow", "class"}


class Counting:
    """A ledger that counts how often it is asked, or fails."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.asked = 0
        self.fails = fails

    def apply(self, records: list[Record], *_: object) -> int:
        return len(records)

    def backlog(self) -> Backlog:
        self.asked += 1
        if self.fails:
            raise self.fails
        return Backlog({("f", "bug"): self.asked})


async def test_it_is_counted_once_for_many_batches(records: Any) -> None:
    ledger = Counting()
    look = Look(ledger, pause)
    for _ in range(3):
        assert await look.after(records.task()) == {of("f", "bug"): 1, oldest("f"): 0}
    assert ledger.asked == 1


def test_the_larger_the_ledger_the_more_rarely_it_is_counted() -> None:
    assert [pause(took) for took in (0.001, 0.1, 0.4, 30.0)] == [5.0, 5.0, 20.0, 60.0]


@pytest.mark.parametrize("error", [StateError("the disk is full"), Unreachable("the database does not answer")])
async def test_a_count_that_fails_is_as_a_batch_that_fails_but_the_batch_is_written(
    error: Exception, records: Any
) -> None:
    ledger = Counting(error)
    look = Look(ledger)
    with pytest.raises(type(error)):
        await look.after(records.task())
    assert (look.seen.written, look.seen.backlog) == (1, None)
    ledger.fails = None
    await look.after(records.task())  # it came back, and is counted at once
    assert look.seen.backlog == Backlog({("f", "bug"): 2})


def test_a_ledger_whose_database_can_not_count_says_so_in_words(ledger: Ledger) -> None:
    with ledger.engine.begin() as connection:
        connection.execute(text("DROP VIEW letters"))
    with pytest.raises(StateError, match=r"the ledger .* can't be used"):
        ledger.backlog()


def test_letters_are_counted_without_their_payloads_and_tasks_without_those_that_are_closed(
    path: Any, contracts: Contracts
) -> None:
    """By SQLite's plan; PostgreSQL chooses by what there is."""
    plans: list[str] = []
    with Ledger(path, contracts) as ledger:
        asked: list[str] = []
        event.listen(ledger.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
        ledger.backlog()
        queries = [one for one in asked if one.startswith("SELECT")]
        with ledger.engine.begin() as connection:
            for query in queries:
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", ("OPEN",) * query.count("?"))
                plans.append("; ".join(row[3] for row in rows))
            index = connection.scalar(text("SELECT sql FROM sqlite_master WHERE name = 'tasks_that_are_open'"))
    letters, tasks = plans
    assert "USING COVERING INDEX dead_letters_by_flow" in letters
    assert "TEMP B-TREE" not in letters
    assert "USING INDEX tasks_that_are_open" in tasks
    assert index.endswith("WHERE state = 'open'")


def test_rows_of_several_stages_add_up() -> None:
    found = backlog.counted(
        [("f", "f.decision", "bug", 2, 20), (None, "f.transform", "bug", 3, 10), ("f", "action.x", "poison", 1, 30)],
        [("g", 4)],
    )
    assert found == Backlog({("f", "bug"): 5, ("f", "poison"): 1}, {"f": 10}, {"g": 4})
    assert Backlog().after(found) == Backlog({("f", "bug"): 0, ("f", "poison"): 0}, {}, {"g": 0})
