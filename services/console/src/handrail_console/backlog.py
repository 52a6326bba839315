"""What waits for people, as numbers: open dead letters and since when, open tasks; by flow, never by message.

The page asks by `handrail_console.queries`, and for more. This is what the writer counts along the way, so it must be cheap:
the indexes `dead_letters_by_flow` and `tasks_that_are_open` are for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from handrail_console import schema
from handrail_console.projection import flow_of

NO_FLOW = "no-flow"
"""Of a letter that names none, written by a stage that serves several; monitor's alerts call it so, too."""

_LETTER = schema.LETTERS.c
_TASK = schema.TASKS.c
_LETTERS = (
    select(_LETTER.flow, _LETTER.stage, _LETTER.failure_class, func.count(), func.min(_LETTER.first_failed_at))
    .where(_LETTER.state == "OPEN")
    .group_by(_LETTER.flow, _LETTER.stage, _LETTER.failure_class)
)
_TASKS = select(_TASK.flow, func.count()).where(schema.IS_OPEN).group_by(_TASK.flow)


@dataclass(frozen=True, slots=True)
class Backlog:
    """`letters` by flow and failure class, `tasks` by flow; `oldest`: when a flow's oldest open letter failed first (ms)."""

    letters: Mapping[tuple[str, str], int] = field(default_factory=dict)
    oldest: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, int] = field(default_factory=dict)

    @property
    def ages(self) -> Mapping[str, int | None]:
        """`oldest` for every flow that has or had letters; None where none is open."""
        return {flow: self.oldest.get(flow) for flow, _ in self.letters}

    def after(self, before: Backlog | None) -> Backlog:
        """What there was and is no more is 0: a line in Prometheus that ends tells nobody that all is done."""
        if before is None:
            return self
        return Backlog(
            dict.fromkeys(before.letters, 0) | dict(self.letters),
            self.oldest,
            dict.fromkeys(before.tasks, 0) | dict(self.tasks),
        )


def asked(connection: Connection) -> Backlog:
    """As the ledger has it now."""
    return counted(connection.execute(_LETTERS).all(), connection.execute(_TASKS).all())


def counted(letters: Iterable[tuple[str | None, str, str, int, int]], tasks: Iterable[tuple[str, int]]) -> Backlog:
    """From rows by flow, stage and class (how many, the oldest), and by flow. Pure."""
    found: Counter[tuple[str, str]] = Counter()
    oldest: dict[str, int] = {}
    for flow, stage, failure_class, count, since in letters:
        name = flow or flow_of(stage) or NO_FLOW
        found[name, failure_class] += count
        oldest[name] = min(since, oldest.get(name, since))
    return Backlog(dict(found), oldest, dict(tasks))
