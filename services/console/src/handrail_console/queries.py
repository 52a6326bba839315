"""What people ask the ledger. Rows come as plain dicts; times in ms since the epoch, UTC."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Select,
    Table,
    Text,
    and_,
    case,
    column,
    exists,
    func,
    or_,
    select,
    table,
)
from sqlalchemy.sql.selectable import TableClause

from handrail_console import schema
from handrail_console.database import Place, told
from handrail_console.ledger import Positions, open_for_reading
from handrail_console.measures import Cases
from handrail_console.projection import MONITOR, TOPICS
from handrail_console.standing import Standing, Watchman, standing

Row = dict[str, Any]
ENDS = ("done", "rejected", "failed", "compensated", "cancelled", "done-by-hand")
"""States of a run after which nothing more happens."""
_IS_FAILING = and_(
    schema.RUNS.c.state == "acting",
    exists().where(
        schema.TRANSITIONS.c.run == schema.RUNS.c.run,
        schema.TRANSITIONS.c.sequence == schema.RUNS.c.sequence,
        schema.TRANSITIONS.c.event == "failing",
    ),
)
_BRIEF = [each for each in schema.LETTERS.c if each.name not in ("value", "stack")]


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters; what is empty or None does not narrow."""

    states: Sequence[str] = ()
    flow: str | None = None
    failure_class: str | None = None


class Queries:
    """The reading side of the ledger. Nothing can be written through it."""

    def __init__(self, engine: Engine, place: Place) -> None:
        self._engine = engine
        self._place = place

    @classmethod
    def open(cls, where: Place | Path | str, within_s: float | None = None) -> Queries:
        """`within_s` as Place.engine has it; what takes longer raises TookTooLong.

        Raises StateError when there is no ledger, or one of another build, Unreachable when its server is away.
        """
        place = where if isinstance(where, Place) else Place.of(where)
        return cls(open_for_reading(place, within_s), place)

    def close(self) -> None:
        self._engine.dispose()

    def alerts(self, *, ended: bool = False, limit: int = 100) -> list[Row]:
        """What fires, the worst and oldest first; with `ended` also what is over, the newest first behind it."""
        alerts = schema.ALERTS
        firing = alerts.c.state == "FIRING"
        asked = select(alerts) if ended else select(alerts).where(firing)
        asked = asked.order_by(firing.desc(), alerts.c.severity, alerts.c.at.desc(), alerts.c.alert).limit(limit)
        return [
            {**row, "sent_to": json.loads(row["sent_to"]), "told": json.loads(row["told"])} for row in self.all(asked)
        ]

    def audit(self, *, since: int, limit: int, run: str | None = None, by: str | None = None) -> list[Row]:
        """What people ordered, the newest first; those of a run are about its dead letters, too."""
        table = schema.AUDIT.c
        asked = _narrowed(select(schema.AUDIT).where(table.at >= since), [(table.by, _one(by))])
        if run is not None:  # of a letter that is closed recovery has forgotten the run
            its = select(schema.LETTERS.c.letter).where(schema.LETTERS.c.run == run)
            asked = asked.where(or_(table.run == run, table.letter.in_(its)))
        return self.all(asked.order_by(table.at.desc(), table.partition, table.offset.desc()).limit(limit))

    def reviews(self) -> dict[str, Row]:
        """The newest review of each flow, from the audit."""
        each = schema.AUDIT.c
        asked = select(schema.AUDIT).where(each.what == "review", each.refused.is_(None), each.flow.is_not(None))
        return {row["flow"]: row for row in self.all(asked.order_by(each.at, each.partition, each.offset))}

    def reviewed(self, flow: str, by: str, at: int) -> bool:
        """Whether the audit has this review."""
        each = schema.AUDIT.c
        this = (each.what == "review", each.flow == flow, each.by == by, each.at == at, each.refused.is_(None))
        return bool(self.all(select(each.at).where(*this).limit(1)))

    def first_runs(self) -> dict[str, int]:
        """When the first run of each flow began, ms."""
        runs = schema.RUNS.c
        asked = select(runs.flow, func.min(runs.started_at).label("at")).group_by(runs.flow)
        return {row["flow"]: row["at"] for row in self.all(asked)}

    def monitor(self, now: int) -> Watchman:
        """When monitor was heard last."""
        found = self.all(select(schema.HEARTBEATS).where(schema.HEARTBEATS.c.service == MONITOR))
        return Watchman(found[0]["at"] if found else None, now)

    def runs(
        self,
        states: Sequence[str] = (),
        flow: str | None = None,
        limit: int = 20,
        after: tuple[int, str] | None = None,
        failing: bool = False,
    ) -> list[Row]:
        """The runs that moved last, newest first; `after` is `updated_at` and id of the run that comes before them.

        With `failing` those whose step has begun to fail and has no outcome yet, the one that began first before the others.
        """
        runs = schema.RUNS
        asked = _those_runs(select(runs), states, flow, failing=failing)
        if failing:
            return [_parsed(row) for row in self.all(asked.order_by(runs.c.updated_at).limit(limit))]
        if after is not None:
            at, run = after
            same_time = and_(runs.c.updated_at == at, runs.c.run > run)
            asked = asked.where(runs.c.updated_at <= at, or_(runs.c.updated_at < at, same_time))
        return [_parsed(row) for row in self.all(asked.order_by(runs.c.updated_at.desc(), runs.c.run).limit(limit))]

    def count_runs(self, states: Sequence[str] = (), flow: str | None = None, *, failing: bool = False) -> int:
        asked = _those_runs(select(func.count().label("n")).select_from(schema.RUNS), states, flow, failing=failing)
        return int(self.all(asked)[0]["n"])

    def run(self, run: str) -> Row | None:
        return next((_parsed(row) for row in self.all(select(schema.RUNS).where(schema.RUNS.c.run == run))), None)

    def find_runs(self, text: str, limit: int = 20) -> list[Row]:
        """The runs whose id is `text`, else whose business key it is, else whose id begins with it."""
        exact = self.run(text)
        if exact:
            return [exact]
        runs = schema.RUNS
        by_route = self.all(select(runs).where(runs.c.route == text).order_by(runs.c.started_at).limit(limit))
        return [_parsed(row) for row in by_route or self._beginning(runs, "run", text, limit)]

    def transitions(self, run: str) -> list[Row]:
        """A run's transitions in order."""
        steps = schema.TRANSITIONS
        return self.all(select(steps).where(steps.c.run == run).order_by(steps.c.sequence))

    def letters(self, which: LetterFilter) -> list[Row]:
        """Dead letters, oldest first, without their payloads (`bytes` long) and stacks."""
        letters = schema.LETTERS.c
        size = func.coalesce(func.length(letters.value), 0).label("bytes")
        asked = _narrowed(
            select(*_BRIEF, size),
            [
                (letters.state, which.states),
                (letters.flow, _one(which.flow)),
                (letters.failure_class, _one(which.failure_class)),
            ],
        )
        return self.all(asked.order_by(letters.failed_at, letters.letter))

    def incidents(self, states: Sequence[str], limit: int) -> list[Row]:
        """Dead letters that failed alike, by fingerprint, flow and stage, the largest group first.

        Each is one of its letters, in brief and an open one if there is any, with `count`, `first_seen`, `last_seen` (ms).
        """
        each = schema.LETTERS.c
        count, first = func.count().label("count"), func.min(each.first_failed_at).label("first_seen")
        one = func.min(each.state.concat(" ").concat(each.letter)).label("one")  # OPEN comes before REPLAYING
        groups: Any = (
            select(count, first, func.max(each.failed_at).label("last_seen"), one)
            .where(each.state.in_(list(states)))
            .group_by(each.fingerprint, each.flow, each.stage)
            .order_by(count.desc(), first, one)
            .limit(limit)
        )
        found = {row.pop("one").partition(" ")[2]: row for row in self.all(groups)}
        letters = self.all(select(*_BRIEF).where(each.letter.in_(list(found))))
        brief = {row["letter"]: row for row in letters}
        return [{**brief[letter], **group} for letter, group in found.items() if letter in brief]

    def open_by_flow(self, states: Sequence[str]) -> list[Row]:
        """How many dead letters in these states, since when (`oldest`, ms), by `flow` and `stage`."""
        each = schema.LETTERS.c
        counted = select(
            each.flow, each.stage, func.count().label("count"), func.min(each.first_failed_at).label("oldest")
        )
        return self.all(counted.where(each.state.in_(list(states))).group_by(each.flow, each.stage))

    def tasks_by_flow(self, now: int) -> list[Row]:
        """Open tasks by `flow`: `count`, how many of them are `overdue`, since when the `oldest` waits (ms)."""
        tasks = schema.TASKS.c
        overdue = func.count(case((tasks.due_at < now, 1))).label("overdue")
        counted = select(tasks.flow, func.count().label("count"), overdue, func.min(tasks.opened_at).label("oldest"))
        return self.all(counted.where(schema.IS_OPEN).group_by(tasks.flow))

    def flows(self) -> list[str]:
        """The flows that had a run."""
        return [row["flow"] for row in self.all(select(schema.RUNS.c.flow).distinct().order_by(schema.RUNS.c.flow))]

    def letter(self, letter: str) -> Row | None:
        return next(iter(self.all(select(schema.LETTERS).where(schema.LETTERS.c.letter == letter))), None)

    def find_letters(self, prefix: str, limit: int = 20) -> list[Row]:
        """The letters whose id is or begins with `prefix`."""
        return self._beginning(schema.LETTERS, "letter", prefix, limit)

    def letters_of(self, run: str) -> list[Row]:
        return self.all(select(schema.LETTERS).where(schema.LETTERS.c.run == run).order_by(schema.LETTERS.c.failed_at))

    def tasks(self, states: Sequence[str] = (), flow: str | None = None, limit: int | None = None) -> list[Row]:
        """Human tasks; what is due first comes first."""
        tasks = schema.TASKS.c
        asked = _narrowed(select(schema.TASKS), [(tasks.state, states), (tasks.flow, _one(flow))])
        return self.all(asked.order_by(tasks.due_at.is_(None), tasks.due_at, tasks.opened_at, tasks.task).limit(limit))

    def task(self, task: str) -> Row | None:
        return next(iter(self.all(select(schema.TASKS).where(schema.TASKS.c.task == task))), None)

    def find_tasks(self, prefix: str, limit: int = 20) -> list[Row]:
        """The tasks whose id is or begins with `prefix`."""
        return self._beginning(schema.TASKS, "task", prefix, limit)

    def tasks_of(self, run: str) -> list[Row]:
        return self.all(select(schema.TASKS).where(schema.TASKS.c.run == run).order_by(schema.TASKS.c.opened_at))

    def standing(self, now: int, ends: Positions | None = None) -> Standing:
        """How far behind the topics the ledger is: by `ends`, else by what console saw when it last looked."""
        [told] = self.all(select(schema.LEDGER)) or [{"seen_at": 0}]
        return standing(self.all(select(schema.POSITIONS)), TOPICS, told["seen_at"], now, ends)

    def newest_transition(self) -> int | None:
        """When the newest transition happened that the ledger has."""
        newest = self.all(select(func.max(schema.RUNS.c.updated_at).label("at")))[0]["at"]
        return None if newest is None else int(newest)

    def cases(self, since: int, flow: str | None = None, *, segments: bool = True) -> Cases:
        """What the measures are made of: runs that began, and other things that happened, since then.

        All of one moment, whatever console writes meanwhile: no run counts in one measure and is not there in another.
        Without `segments` outcomes, which are the dearest, are of all runs only.
        """
        with self._one_moment() as connection:
            return _cases(connection, since, flow, segments)

    def count(self, name: str) -> int:
        """Rows of a table."""
        return int(self.all(select(func.count().label("n")).select_from(schema.METADATA.tables[name]))[0]["n"])

    def count_unreadable(self) -> int:
        return self.count("unreadable")

    def all(self, asked: Select[Any]) -> list[Row]:
        """The rows of a query of one's own."""
        with told(self._place), self._engine.begin() as connection:
            return _rows(connection, asked)

    @contextmanager
    def _one_moment(self) -> Iterator[Connection]:
        """Several queries see the ledger as it was at the first of them. In SQLite any transaction does that."""
        with told(self._place), self._engine.connect() as connection:
            if self._place.file is None:
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    def _beginning(self, where: Table | TableClause, name: str, prefix: str, limit: int) -> list[Row]:
        if not prefix:
            return []
        key: Column[str] = where.c[name]  # type: ignore[assignment]
        begins = func.substr(key, 1, len(prefix), type_=Text) == prefix
        return self.all(select(where).where(begins).order_by(key).limit(limit))


def _rows(connection: Connection, asked: Select[Any]) -> list[Row]:
    return [dict(row) for row in connection.execute(asked).mappings()]


def _cases(connection: Connection, since: int, flow: str | None, segments: bool) -> Cases:
    def view_of(name: str, *columns: str) -> TableClause:
        return table(name, *(column(each) for each in ("flow", "week", "began_at", *columns)))

    def narrowed(asked: Select[Any], view: TableClause) -> Select[Any]:
        return _narrowed(asked.where(view.c.began_at >= since), [(view.c.flow, _one(flow))])

    def counted(view: TableClause, by: Sequence[str], *more: Any) -> list[Row]:
        keys = [view.c[each] for each in by]
        return _rows(connection, narrowed(select(*keys, func.count().label("n"), *more), view).group_by(*keys))

    def each(name: str, *what: str) -> list[Row]:
        view = view_of(name, *what)
        return _rows(connection, narrowed(select(view), view))

    def by_segment(name: str, *what: str) -> list[Row]:
        return counted(view_of(name, "segment", *what), ("flow", "segment", "week", *what))

    def in_parts(whole: str, parts: str, by: Sequence[str], what: str, add: Any) -> list[Row]:
        """From the view that has each run once, or from that which has its segments, too: dear, and rarely asked for."""
        keys = ("flow", "segment", "week", *by) if segments else ("flow", "week", *by)
        view = table(parts if segments else whole, *(column(each) for each in (*keys, "began_at", what)))
        return counted(view, keys, add(view.c[what]).label(what))

    work = view_of("measured_work", "segment", "what", "minutes")
    minutes = (func.count(work.c.minutes).label("told"), func.sum(work.c.minutes).label("minutes"))
    came_to = ("outcome", "came_to", "within_ms", "took_ms")
    standing = ("outcome", "unit", "standing")
    return Cases(
        runs=by_segment("measured_runs", "state"),
        failed=by_segment("measured_failures", "failure_class"),
        recoveries=each("measured_recoveries", "segment", "failed_at", "took_ms", "discarded_at", "how"),
        duplicates=each("measured_duplicates", "stopped", "found"),
        by_hand=each("measured_by_hand", "segment", "why", "took_ms"),
        times=in_parts("outcome_times", "measured_outcome_times", came_to, "since", func.min),
        amounts=in_parts("outcome_amounts", "measured_amounts", standing, "amount", func.sum),
        work=counted(work, ("flow", "segment", "week", "what"), *minutes),
        waiting=each("measured_waiting", "owner", "took_ms"),
        upkeep=each("measured_upkeep", "what", "took_ms", "minutes"),
    )


def _one(value: str | None) -> Sequence[str]:
    return () if value is None else (value,)


def _those_runs(asked: Select[Any], states: Sequence[str], flow: str | None, *, failing: bool) -> Select[Any]:
    runs = schema.RUNS.c
    asked = _narrowed(asked, [(runs.state, states), (runs.flow, _one(flow))])
    return asked.where(_IS_FAILING) if failing else asked


def _narrowed(asked: Select[Any], conditions: Sequence[tuple[Any, Sequence[str]]]) -> Select[Any]:
    for where, allowed in conditions:
        if allowed:
            asked = asked.where(where.in_(list(allowed)))
    return asked


def _parsed(run: Row) -> Row:
    return {**run, "dedupe": json.loads(run["dedupe"]), "segments": json.loads(run["segments"])}
