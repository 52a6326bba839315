"""How changes get into the tables: a few statements for a whole batch, the same rules on SQLite and PostgreSQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from json.encoder import encode_basestring
from operator import itemgetter
from types import NoneType
from typing import Any

from sqlalchemy import Connection, Dialect, Table, bindparam, case, delete, func, literal_column, or_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.dml import Insert as PostgresqlInsert
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect
from sqlalchemy.dialects.sqlite.dml import Insert as SqliteInsert

from handrail_console import schema
from handrail_console.projection import Change, Row

Insert = SqliteInsert | PostgresqlInsert
Shape = tuple[type, ...]
"""What the columns of a row are that may be null."""
Shaped = tuple[Shape, Row]


class Statement:
    """One statement, compiled once. SQLAlchemy's own way through `execute` costs twice as much as all the rest of a row."""

    def __init__(self, statement: Any, dialect: Dialect, columns: Sequence[str] | None = None) -> None:
        """An insert fills `columns`, or all."""
        compiled = statement.compile(dialect=dialect, column_keys=columns)
        self._sql = str(compiled)
        names = list(compiled.positiontup)
        self._values: Callable[[Row], Any] = itemgetter(*names) if len(names) > 1 else lambda row: (row[names[0]],)

    def run(self, connection: Connection, rows: list[Row]) -> None:
        """For each row, in order. Rows may have more than is asked for."""
        values = list(map(self._values, rows))
        if "\0" in "".join([one for row in values for one in row if type(one) is str]):
            values = [tuple(map(_storable, row)) for row in values]
        connection.exec_driver_sql(self._sql, values)


class Insertion:
    """Rows for one table. What is null in a row is left out of its statement.

    For each null that it binds sqlite3 goes through its adapters, which takes longer than to bind a text.
    """

    def __init__(self, insert: Insert, dialect: Dialect) -> None:
        self._insert = insert
        self._dialect = dialect
        columns = [column for column in insert.table.columns if column.server_default is None]
        self._always = [column.name for column in columns if not column.nullable]
        self._perhaps = [column.name for column in columns if column.nullable]
        self._told = itemgetter(*self._perhaps)
        self._key = itemgetter(*(column.name for column in insert.table.primary_key))
        self._statements: dict[Shape, Statement] = {}

    def run(self, connection: Connection, rows: list[Row]) -> None:
        """Each row, which may have more than there are columns; those of one key in their order."""
        shaped = zip([tuple(map(type, told)) for told in map(self._told, rows)], rows, strict=True)
        is_free = len(set(map(self._key, rows))) == len(rows)
        for types, some in _gathered(shaped) if is_free else groupby(shaped, itemgetter(0)):
            self._statement(types).run(connection, [row for _, row in some])

    def _statement(self, types: Shape) -> Statement:
        if types not in self._statements:
            told = [name for name, kind in zip(self._perhaps, types, strict=True) if kind is not NoneType]
            self._statements[types] = Statement(self._insert, self._dialect, [*self._always, *told])
        return self._statements[types]


def _gathered(shaped: Iterable[Shaped]) -> Iterable[tuple[Shape, list[Shaped]]]:
    found: dict[Shape, list[Shaped]] = defaultdict(list)
    for each in shaped:
        found[each[0]].append(each)
    return found.items()


class Writing:
    """The statements of one kind of database."""

    def __init__(self, backend: str) -> None:
        lite = backend == "sqlite"
        dialect = sqlite.dialect() if lite else psycopg_dialect(paramstyle="format")  # type: ignore[no-untyped-call]
        self._insert: Callable[[Table], Insert] = sqlite.insert if lite else postgresql.insert
        self._least = func.min if lite else func.least
        many: Mapping[str, Insert] = {
            "transitions": self._transitions(),
            "runs": self._runs(),
            "run_outcomes": self._insert(schema.RUN_OUTCOMES).on_conflict_do_nothing(),
        }
        inserts: Mapping[str, Insert] = {
            "run_segments": self._insert(schema.RUN_SEGMENTS).on_conflict_do_nothing(),
            "tasks": self._newest(schema.TASKS, keep=("opened_at", "run", "flow", "version", "route", "step", "kind")),
            "dead_letters": self._newest(schema.DEAD_LETTERS, by="generation"),
            "letter_states": self._newest(schema.LETTER_STATES, by="generation"),
            "failures": self._insert(schema.FAILURES).on_conflict_do_nothing(),
            "stage_counts": self._insert(schema.STAGE_COUNTS).on_conflict_do_nothing(),
            "alerts": self._newest(schema.ALERTS, by="sequence"),
            "audit": self._insert(schema.AUDIT).on_conflict_do_nothing(),
            "systems": self._newest(schema.SYSTEMS, by="at"),
            "heartbeats": self._newest(schema.HEARTBEATS, by="at"),
            "unreadable": self._insert(schema.UNREADABLE).on_conflict_do_nothing(),
            "positions": self._newest(schema.POSITIONS),
        }
        self._puts: Mapping[str, Statement | Insertion] = {
            **{name: Insertion(insert, dialect) for name, insert in many.items()},
            **{name: Statement(insert, dialect) for name, insert in inserts.items()},
        }
        self._forgets = {
            table.name: Statement(
                delete(table).where(*(column == bindparam(column.name) for column in table.primary_key)), dialect
            )
            for table in (schema.TASKS, schema.DEAD_LETTERS, schema.LETTER_STATES, schema.SYSTEMS)
        }

    def put(self, connection: Connection, table: str, rows: list[Row]) -> None:
        """Insert rows, or let them move what is there; those of one key in their order."""
        if rows:
            self._puts[table].run(connection, rows)

    def write(self, connection: Connection, changes: Iterable[Change]) -> None:
        """The changes of a batch. Those of one key in a table keep their order; tables don't depend on each other."""
        by_table: dict[str, list[Change]] = defaultdict(list)
        for change in changes:
            by_table[change.table].append(change)
        if transitions := by_table.get("transitions"):
            runs = folded([change.row for change in transitions])
            self.put(connection, "runs", runs)
            self.put(connection, "run_segments", [each for run in runs for each in _segments(run)])
            self.put(connection, "run_outcomes", [each for run in runs for each in _outcomes(run)])
        for table, some in by_table.items():
            if table not in self._forgets:
                self.put(connection, table, [change.row for change in some])
                continue
            for forget, group in groupby(some, lambda change: change.forget):
                rows = [change.row for change in group]
                if forget:
                    self._forgets[table].run(connection, rows)
                else:
                    self.put(connection, table, rows)

    def _transitions(self) -> Insert:
        """The same sequence at another offset should never be: it is counted, so that a broken build can be seen."""
        table, statement = schema.TRANSITIONS, self._insert(schema.TRANSITIONS)
        new = statement.excluded
        return statement.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={"repeats": table.c.repeats + literal_column("1")},
            where=or_(table.c.offset != new.offset, table.c.partition != new.partition),
        )

    def _runs(self) -> Insert:
        table, statement = schema.RUNS, self._insert(schema.RUNS)
        old, new = table.c, statement.excluded
        moved: dict[str, Any] = {
            name: case((new.sequence > old.sequence, new[name]), else_=old[name])
            for name in ("sequence", "state", "step", "failure_class", "reason", "updated_at")
        }
        told: dict[str, Any] = {
            name: case((old[name] == literal_column("'{}'"), new[name]), else_=old[name])
            for name in ("dedupe", "segments")
        }
        return statement.on_conflict_do_update(
            index_elements=["run"],
            set_={
                **moved,
                **told,
                "trace": func.coalesce(old.trace, new.trace),
                "started_at": self._least(old.started_at, new.started_at),
            },
        )

    def _newest(self, table: Table, *, by: str | None = None, keep: tuple[str, ...] = ()) -> Insert:
        """The newest row counts; `by` names a number that must not go down."""
        statement = self._insert(table)
        key = [column.name for column in table.primary_key]
        new = {column.name: statement.excluded[column.name] for column in table.c if column.name not in (*key, *keep)}
        where = statement.excluded[by] >= table.c[by] if by else None
        return statement.on_conflict_do_update(index_elements=key, set_=new, where=where)


def folded(transitions: list[Row]) -> list[Row]:
    """The runs that transitions tell of, as each is after the last of them. Pure."""
    runs: dict[str, Row] = {}
    for one in transitions:
        run = runs.get(one["run"])
        if run is None:
            runs[one["run"]] = {**one, "started_at": one["at"], "updated_at": one["at"]}
            continue
        run["started_at"] = min(run["started_at"], one["at"])
        run["trace"] = run["trace"] or one["trace"]
        run["dedupe"] = run["dedupe"] or one["dedupe"]
        run["segments"] = run.get("segments") or one.get("segments")
        run["outcomes"] = run.get("outcomes") or one.get("outcomes")
        if one["sequence"] > run["sequence"]:
            run |= {name: one[name] for name in ("sequence", "state", "step", "failure_class", "reason")}
            run["updated_at"] = one["at"]
    for run in runs.values():
        run["told"] = run.get("segments") or {}
        run["dedupe"] = as_json(run["dedupe"])
        run["segments"] = as_json(run["told"])
    return list(runs.values())


def _segments(run: Row) -> list[Row]:
    return [{"run": run["run"], "name": name, "value": value} for name, value in run["told"].items()]


def _outcomes(run: Row) -> list[Row]:
    return [{**outcome, "run": run["run"]} for outcome in run.get("outcomes") or ()]


def as_json(value: Mapping[str, str]) -> str:
    """As `json.dumps(value, ensure_ascii=False, sort_keys=True)` has it, which makes an encoder each time."""
    return (
        "{"
        + ", ".join([f"{encode_basestring(name)}: {encode_basestring(value[name])}" for name in sorted(value)])
        + "}"
    )


def _storable(value: Any) -> Any:
    """PostgreSQL's text can't hold U+0000."""
    return value.replace("\0", "\\x00") if type(value) is str else value
