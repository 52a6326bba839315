"""Decision tables: the first row whose `when` holds says where a run goes; a last `otherwise` takes the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, RootModel, model_validator

from handrail.errors import Problem
from handrail.flow.cel import Condition, ExpressionError, Scope
from handrail.flow.model import Duration, Text
from handrail.flow.reading import Document, Loc, Strict, Wrong, read_yaml, validate

Route = Literal["accept", "review", "reject"]


class Then(Strict):
    """Where the run goes and why. `group` and `due` are for a review: who decides, and by when."""

    route: Route
    reason: Text
    group: Text | None = None
    due_ms: Duration | None = Field(default=None, alias="due")

    @model_validator(mode="after")
    def _only_reviews_wait(self) -> Then:
        if self.route != "review" and (self.group or self.due_ms is not None):
            raise Wrong(f"`group` and `due` are for a review, and this goes to {self.route}", "leave them out")
        return self


class RowFile(Strict):
    """`{name, when, then}`, or `{otherwise}` as the last one."""

    name: Text | None = None
    when: Text | None = None
    then: Then | None = None
    otherwise: Then | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> RowFile:
        if self.otherwise and (self.name or self.when or self.then):
            raise Wrong("a row has `otherwise` and something beside it", "make two rows of it")
        if not self.otherwise and not (self.name and self.when and self.then):
            missing = [key for key in ("name", "when", "then") if not getattr(self, key)]
            raise Wrong(f"the row lacks {', '.join(missing)}", "write {name: …, when: …, then: {route: …, reason: …}}")
        return self


class TableFile(RootModel[tuple[RowFile, ...]]):
    """A rules file is a list of rows."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a table answered. `row` is the name of the row, or "otherwise"."""

    row: str
    route: Route
    reason: str
    group: str | None = None
    due_ms: int | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Decision:
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Row:
    """One row, compiled."""

    condition: Condition
    decision: Decision


class Table:
    """A decision table, compiled. Immutable."""

    def __init__(self, rows: tuple[Row, ...], otherwise: Decision, scope: Scope) -> None:
        self.rows = rows
        self.otherwise = otherwise
        self._scope = scope

    @property
    def routes(self) -> frozenset[Route]:
        """Every route that it can answer."""
        return frozenset([self.otherwise.route, *(row.decision.route for row in self.rows)])

    def decide(self, values: Mapping[str, Mapping[str, Any]]) -> Decision:
        """The first row that holds for `{"event": …, "request": …}`. Raises Failure when a rule can't be answered."""
        flat = self._scope.flatten(values)
        return next((row.decision for row in self.rows if row.condition.holds(flat)), self.otherwise)


def read_table(path: Path, file: str, scope: Scope, problems: list[Problem]) -> Table | None:
    """The table in `path`; None, and everything that is wrong as problems, when it can't be used."""
    document = read_yaml(path, file, problems)
    if document is None:
        return None
    if not isinstance(document.data, list):
        problems.append(document.problem((), "a rules file is a list of rows", "write `- name: …` for each row"))
        return None
    read = validate(TableFile, document, problems)
    if read is None:
        return None
    before = len(problems)
    rows = [row for index, entry in enumerate(read.root) if (row := _row(document, index, entry, scope, problems))]
    problems.extend(_out_of_place(document, read.root))
    otherwise = read.root[-1].otherwise if read.root else None
    if otherwise is None:
        last = (len(read.root) - 1,) if read.root else ()
        problems.append(
            document.problem(last, "the last row is not `otherwise`", "end with `- otherwise: {route: …, reason: …}`")
        )
    if len(problems) > before or otherwise is None:
        return None
    return Table(tuple(rows), _decision("otherwise", otherwise), scope)


def compile_at(document: Document, loc: Loc, text: str, scope: Scope, problems: list[Problem]) -> Condition | None:
    """The expression that stands at `loc`; None, and its mistakes as problems with their lines, when it is wrong."""
    try:
        return scope.condition(text)
    except ExpressionError as error:
        first = document.text_line(loc) or 1
        for mistake in error.mistakes:
            what = f"`{'.'.join(map(str, loc))}`: {mistake.what} (column {mistake.column} of the expression)"
            problems.append(Problem(document.file, first + mistake.line - 1, what, mistake.instead))
        return None


def _row(document: Document, index: int, entry: RowFile, scope: Scope, problems: list[Problem]) -> Row | None:
    if entry.when is None or entry.then is None or entry.name is None:
        return None
    condition = compile_at(document, (index, "when"), entry.when, scope, problems)
    return Row(condition, _decision(entry.name, entry.then)) if condition else None


def _decision(row: str, then: Then) -> Decision:
    return Decision(row, then.route, then.reason, then.group, then.due_ms)


def _out_of_place(document: Document, rows: tuple[RowFile, ...]) -> list[Problem]:
    """Rows that can never be reached, and names that are there twice."""
    found: list[Problem] = []
    ended_by: str | None = None
    conditions: dict[str, str] = {}
    names: set[str] = set()
    for index, row in enumerate(rows):
        name = row.name or "otherwise"
        when = " ".join((row.when or "true").split())
        if ended_by is not None:
            found.append(
                document.problem(
                    (index,), f"row `{name}` is never reached: `{ended_by}` takes everything", "move it up"
                )
            )
        elif when in conditions:
            earlier = conditions[when]
            found.append(
                document.problem((index,), f"row `{name}` is never reached: `{earlier}` asks the same", "remove one")
            )
        if name in names:
            found.append(
                document.problem((index,), f"the row name `{name}` is there twice", "name each row differently")
            )
        if when == "true" and ended_by is None:
            ended_by = name
        conditions.setdefault(when, name)
        names.add(name)
    return found
