"""Making the ledger anew while others use it, and saying how far it is behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.errors import StateError, Unreachable
from handrail_console import schema
from handrail_console.commands.ledger import app
from handrail_console.commands.runs import app as runs
from handrail_console.database import Place
from handrail_console.ledger import Ledger, Rebuilt
from handrail_console.projection import TOPICS, Record
from handrail_console.queries import Queries
from handrail_console.rebuilding import rebuild
from handrail_console.source import Read
from sqlalchemy import select, text

OLD, NEW = "0a1b2c3d-0000-8000-8000-000000000001", "0a1b2c3d-0000-8000-8000-000000000002"


class Topics:
    """Stands in for Kafka: one partition of a topic, given out two records at a time. `broken`: nothing comes after them."""

    def __init__(self, records: Sequence[Record], *, broken: bool = False) -> None:
        self.records, self.broken = records, broken
        self._where = (records[0].topic, 0)
        self.beginnings = {self._where: records[0].offset}
        self._at = 0

    async def connect(self, positions: Any) -> Topics:
        assert positions == {}
        return self

    async def __aenter__(self) -> Topics:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def ends(self) -> dict[tuple[str, int], int]:
        return {self._where: self.records[-1].offset + 1}

    async def read(self, limit: int, within_s: float) -> Read:
        some = self.records[self._at : self._at + 2]
        if self.broken and not some[1:]:
            raise Unreachable("Kafka does not answer")
        self._at += 2
        reached = {self._where: some[-1].offset + 1}
        return Read(some, reached, await self.ends())


def history(records: Any, run: str, start: int = 1) -> list[Record]:
    states = ["prepared", "acting", "done"]
    return [records.transition(number, state, "next", run=run) for number, state in enumerate(states, start)]


def states(place: Place) -> dict[str, str]:
    queries = Queries.open(place)
    try:
        return {row["run"]: row["state"] for row in queries.runs()}
    finally:
        queries.close()


def failures(place: Place) -> list[tuple[str, int, int]]:
    """Letter, generation and time of each."""
    queries = Queries.open(place)
    try:
        each = schema.FAILURES.c
        asked = select(each.letter, each.generation, each.failed_at).order_by(each.letter, each.generation)
        return [tuple(row.values()) for row in queries.all(asked)]
    finally:
        queries.close()


async def test_a_rebuild_replaces_all_and_a_console_that_runs_reads_on_from_there(
    place: Place, contracts: Contracts, records: Any
) -> None:
    with Ledger(place, contracts) as console:
        wrong = records.transition(1, "prepared", "prepared", run="never-was")
        topics = [*history(records, OLD), *history(records, NEW)]
        console.positions()
        console.apply([wrong, *topics[:1]])
        seen: list[tuple[int, int]] = []
        positions = await rebuild(place, contracts, Topics(topics).connect, lambda *told: seen.append(told))
        assert positions == {("runs", 0): topics[-1].offset + 1}
        assert seen == [(2, 6), (4, 6), (6, 6), (6, 6)]
        assert states(place) == {OLD: "done", NEW: "done"}

        with pytest.raises(Rebuilt):
            console.apply(topics[1:2])
        assert console.positions() == positions
        later = records.transition(4, "failed", "outcome", run=NEW)
        assert console.apply([*topics, later]) == 1
        assert states(place) == {OLD: "done", NEW: "failed"}


async def test_earlier_failures_of_a_letter_outlive_a_rebuild_though_their_topic_was_compacted(
    place: Place, contracts: Contracts, records: Any
) -> None:
    """A failed three times, and its topic has the last one. B is not there any more; what was said of C was wrong."""
    later = 3_600_000
    a1, a2, a3 = (records.letter(letter="A", generation=n, message=f"time {n}") for n in (1, 2, 3))
    b1 = records.letter(letter="B")
    c1 = records.letter(letter="C", failed_at=(begun := a1.timestamp) + later)
    with Ledger(place, contracts) as console:
        console.apply([a1, a2, a3, b1, c1])
        with console.engine.begin() as connection:
            wrong = dict(
                connection.execute(select(schema.FAILURES).where(schema.FAILURES.c.letter == "C")).mappings().one()
            )
            connection.execute(schema.FAILURES.insert(), wrong | {"generation": 2})
            connection.execute(schema.FAILURES.update().where(schema.FAILURES.c.letter == "C").values(failed_at=begun))
    for _ in range(2):
        await rebuild(place, contracts, Topics([a3, c1]).connect, lambda *_: None)
        assert failures(place) == [("A", 1, begun), ("A", 2, begun), ("A", 3, begun), ("C", 1, begun + later)]


async def test_alerts_that_are_over_outlive_a_rebuild_and_those_that_fire_only_if_they_still_do(
    place: Place, contracts: Contracts, records: Any
) -> None:
    over, ended = (
        records.alert(alert="over", state="RESOLVED"),
        records.alert(alert="ended", state="RESOLVED", sequence=2),
    )
    gone, fires = records.alert(alert="gone"), records.alert(alert="fires")
    with Ledger(place, contracts) as console:
        console.apply([over, ended, gone, fires])
    for _ in range(2):
        await rebuild(place, contracts, Topics([ended, fires]).connect, lambda *_: None)
        queries = Queries.open(place)
        found = {row["alert"]: row["state"] for row in queries.alerts(ended=True)}
        queries.close()
        assert found == {"over": "RESOLVED", "ended": "RESOLVED", "fires": "FIRING"}


async def test_a_rebuild_that_can_not_be_finished_changes_nothing_and_leaves_nothing(
    place: Place, contracts: Contracts, records: Any
) -> None:
    with Ledger(place, contracts) as console:
        console.apply(before := history(records, OLD))
        topics = Topics([*before, *history(records, NEW)][:5], broken=True)
        with pytest.raises(Unreachable):
            await rebuild(place, contracts, topics.connect, lambda *_: None)
        assert states(place) == {OLD: "done"}
        assert console.apply([records.transition(4, "failed", "outcome", run=OLD)]) == 1
    await rebuild(place, contracts, Topics(before[:2]).connect, lambda *_: None)
    assert states(place) == {OLD: "acting"}
    if place.file:
        assert {each.name.removeprefix(place.file.name) for each in place.file.parent.iterdir()} <= {
            *("", "-wal", "-shm"),
            ".rebuild.lock",
        }


async def test_two_rebuilds_at_once_are_refused(place: Place, contracts: Contracts, records: Any) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()
    topics = Topics(history(records, OLD))

    async def slowly(positions: Any) -> Topics:
        inside.set()
        await go_on.wait()
        return topics

    first = asyncio.create_task(rebuild(place, contracts, slowly, lambda *_: None))
    await inside.wait()
    with pytest.raises(StateError, match=r"another rebuild of the ledger .* is under way"):
        await rebuild(place, contracts, topics.connect, lambda *_: None)
    go_on.set()
    await first
    assert states(place) == {OLD: "done"}


async def test_what_people_have_added_to_the_database_stays(place: Place, contracts: Contracts, records: Any) -> None:
    Ledger(place, contracts).close()
    engine = place.engine()
    with engine.begin() as connection:
        connection.execute(text("CREATE VIEW mine AS SELECT run FROM runs WHERE state = 'done'"))
    await rebuild(place, contracts, Topics(history(records, OLD)).connect, lambda *_: None)
    with engine.connect() as connection:
        assert connection.scalars(text("SELECT run FROM mine")).all() == [OLD]
    engine.dispose()


def test_status_tells_lag_newest_transition_and_rows(ledger: Ledger, desk: Any, records: Any) -> None:
    first = records.transition(1, "prepared", "prepared")
    ledger.apply([first, records.task()], {("runs", 0): 1}, {("runs", 0): 4711, ("tasks", 0): 1})
    told = json.loads(desk(app, "status", "--json").output)
    assert told["lag"] == {**dict.fromkeys(TOPICS, 0), "runs": 4710}
    assert (told["behind"], told["asked_kafka"]) == (4710, False)
    assert told["newest_transition_at"] == first.timestamp
    assert {name: n for name, n in told["rows"].items() if n} == {"runs": 1, "transitions": 1, "tasks": 1}
    output = desk(app, "status").output
    assert "a transition of 2026-01-01 10:02:03 UTC" in output
    assert "Lag          as console saw it then: " in output


def test_runs_list_says_when_the_ledger_is_behind(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.transition(1, "prepared", "prepared")], {("runs", 0): 1}, {("runs", 0): 900})
    assert "behind" not in desk(runs, "list").output
    ledger.apply([], {("runs", 0): 2}, {("runs", 0): 9000})
    assert "the ledger is behind: 8998 records to come; handrail ledger status" in desk(runs, "list").output
    assert json.loads(desk(runs, "list", "--json").stdout)[0]["state"] == "prepared"


def test_runs_list_says_when_console_has_not_looked_for_long(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.transition(1, "prepared", "prepared")])
    with ledger.engine.begin() as connection:
        connection.execute(schema.LEDGER.update(), {"seen_at": records.transition(2, "x", "x").timestamp - 300_000})
        assert connection.scalar(select(schema.LEDGER.c.seen_at))
    assert "the ledger is as it was 6 min ago: console has not looked since" in desk(runs, "list").output


def test_a_rebuild_without_kafka_says_so_and_keeps_the_ledger(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.transition(1, "prepared", "prepared")])
    result = desk(app, "rebuild")
    assert isinstance(result.exception, Unreachable)
    assert states(ledger.place) == {OLD: "prepared"}
