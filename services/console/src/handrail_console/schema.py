"""The ledger's tables as SQLAlchemy knows them. Times are ms since the epoch, UTC.

They are made and changed by the migrations in `migrations/`; a test holds both against each other. The views are in the
migrations only; LETTERS names the columns of one.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    column,
    table,
    text,
)

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")
"""Every migration, in order. The last one is what this build reads and writes."""
APPLICATION = 0x48524C47
"""`PRAGMA application_id` of a SQLite ledger: the letters HRLG."""

METADATA = MetaData()
_FAILED = text("failure_class IS NOT NULL OR first_failure_at IS NOT NULL")
_BY_HAND = text("state = 'done-by-hand'")
_REPEATED = text("repeats > 0")
IS_OPEN = text("state = 'open'")
"""Of a task. For who wants the index: a partial one is not used where the value is a parameter."""


def _table(name: str, *parts: Column | PrimaryKeyConstraint | Index) -> Table:  # type: ignore[type-arg]
    return Table(name, METADATA, *parts, sqlite_with_rowid=False)


def _text(name: str, *, null: bool = False) -> Column:  # type: ignore[type-arg]
    return Column(name, Text, nullable=null)


def _time(name: str, *, null: bool = False) -> Column:  # type: ignore[type-arg]
    return Column(name, BigInteger, nullable=null)


def _number(name: str, *, null: bool = False) -> Column:  # type: ignore[type-arg]
    return Column(name, Integer, nullable=null)


# Which ledger this is: one row. A rebuilt one has another id, by which a writer sees that its positions are gone.
LEDGER = _table(
    "ledger",
    _text("id"),
    _time("made_at"),
    _time("seen_at"),  # when console last looked at the topics
    PrimaryKeyConstraint("id"),
)

# One row for each run: its last state. Filled from the transitions. `dedupe` and `segments` are JSON.
RUNS = _table(
    "runs",
    _text("run"),
    _text("flow"),
    _number("version"),
    _text("route"),
    _text("dedupe"),
    _text("segments"),
    _text("trace", null=True),
    _number("sequence"),
    _text("state"),
    _text("step", null=True),
    _text("failure_class", null=True),
    _text("reason", null=True),
    _time("started_at"),
    _time("updated_at"),
    PrimaryKeyConstraint("run"),
    # By hash in PostgreSQL: a business key may be longer than a row of a B-tree there.
    Index("runs_by_route", "route", postgresql_using="hash"),
    Index("runs_by_time", "updated_at"),
)

# What tells a run's customers apart, by the flow's `segments`.
RUN_SEGMENTS = _table(
    "run_segments",
    _text("run"),
    _text("name"),
    _text("value"),
    PrimaryKeyConstraint("run", "name"),
)

# What a run is about, by the flow's `outcomes`: an amount (in what unit), or a time from `since` on (ms) until a step.
RUN_OUTCOMES = _table(
    "run_outcomes",
    _text("run"),
    _text("name"),
    Column("amount", Double),
    _text("unit", null=True),
    _text("step", null=True),
    _time("since", null=True),
    _time("within_ms", null=True),
    PrimaryKeyConstraint("run", "name"),
)

# Every committed step forward of every run. `repeats` is 0 as long as each came once.
TRANSITIONS = _table(
    "transitions",
    _text("run"),
    _number("sequence"),
    _text("previous", null=True),
    _text("state"),
    _text("event"),
    _text("step", null=True),
    _text("failure_class", null=True),
    _text("reason", null=True),
    _number("attempts"),
    _text("actor", null=True),
    _text("task", null=True),
    _time("first_failure_at", null=True),
    _time("at"),
    _number("partition"),
    Column("offset", BigInteger, nullable=False),
    Column("repeats", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("run", "sequence"),
    Index("transitions_that_failed", "run", "step", sqlite_where=_FAILED, postgresql_where=_FAILED),
    Index("transitions_by_hand", "run", sqlite_where=_BY_HAND, postgresql_where=_BY_HAND),
    Index("transitions_repeated", "run", sqlite_where=_REPEATED, postgresql_where=_REPEATED),
)

TASKS = _table(
    "tasks",
    _text("task"),
    _text("run"),
    _text("flow"),
    _number("version"),
    _text("route"),
    _text("step"),
    _text("kind"),
    _text("state"),
    _text("group"),
    _text("title"),
    _text("context"),
    _text("runbook", null=True),
    _time("due_at", null=True),
    _text("decided_by", null=True),
    _text("reason", null=True),
    _time("opened_at"),
    _time("at"),
    PrimaryKeyConstraint("task"),
    Index("tasks_by_run", "run"),
    Index("tasks_that_are_open", "flow", sqlite_where=IS_OPEN, postgresql_where=IS_OPEN),
)

# Dead letters as they were written last; `headers` is JSON: [[name, text | null | {"base64": ...}], ...].
DEAD_LETTERS = Table(
    "dead_letters",
    METADATA,
    _text("letter"),
    _number("generation"),
    _text("stage"),
    _text("flow", null=True),
    _number("version", null=True),
    _text("run", null=True),
    _text("route", null=True),
    _text("step", null=True),
    _text("topic"),
    _number("partition"),
    Column("offset", BigInteger, nullable=False),
    _time("timestamp"),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    _text("headers"),
    _text("event_id", null=True),
    _text("contract", null=True),
    _text("failure_class"),
    _text("field", null=True),
    _text("exception", null=True),
    _text("message"),
    _text("stack", null=True),
    _text("fingerprint"),
    _number("attempts"),
    _text("trace", null=True),
    _text("payload_hash"),
    _time("failed_at"),
    _time("first_failed_at"),
    PrimaryKeyConstraint("letter"),
    Index("dead_letters_by_run", "run"),
    # All that `handrail_console.backlog` needs of a letter: the rows, which have the payloads, are not read.
    Index("dead_letters_by_flow", "flow", "stage", "failure_class", "first_failed_at", "letter", "generation"),
)

LETTER_STATES = _table(
    "letter_states",
    _text("letter"),
    _number("generation"),
    _text("state"),
    _number("replays"),
    _text("by", null=True),
    _text("reason", null=True),
    _time("at"),
    PrimaryKeyConstraint("letter"),
)

# The view of letters as they are by now: the columns of DEAD_LETTERS, and those of their states.
LETTERS = table(
    "letters",
    *(column(each.name, each.type) for each in DEAD_LETTERS.c),
    *(column(name) for name in ("state", "replays", "state_by", "state_reason", "state_at")),
)

# Every failure that became a dead letter, one row a generation: it stays when the letter is closed and forgotten.
# `flow` is that of the stage where the letter names none; `problem` is `missing` or `invalid` where `field` is known.
FAILURES = _table(
    "failures",
    _text("letter"),
    _number("generation"),
    _text("stage"),
    _text("flow", null=True),
    _text("run", null=True),
    _text("step", null=True),
    _text("failure_class"),
    _text("contract", null=True),
    _text("field", null=True),
    _text("problem", null=True),
    _time("first_failed_at"),
    _time("failed_at"),
    PrimaryKeyConstraint("letter", "generation"),
    Index("failures_by_run", "run"),
)

# What a stage did that no other topic tells, one row for each transaction; `flow` is that of the stage where none is named.
STAGE_COUNTS = _table(
    "stage_counts",
    _number("partition"),
    Column("offset", BigInteger, nullable=False),
    _text("name"),
    _text("stage"),
    _text("flow", null=True),
    Column("count", BigInteger, nullable=False),
    _time("at"),
    PrimaryKeyConstraint("partition", "offset", "name"),
)

# What monitor has found, one row an episode: as it stands, and how each one ended. `sent_to` and `told` are JSON lists.
ALERTS = _table(
    "alerts",
    _text("alert"),
    _time("since"),
    _text("rule"),
    _text("subject"),
    _text("state"),
    _text("severity"),
    _number("sequence"),
    _text("what"),
    _text("means"),
    _text("todo"),
    _text("owner", null=True),
    _text("runbook", null=True),
    _text("flow", null=True),
    _text("system", null=True),
    _text("sent_to"),
    _text("told"),
    _time("at"),
    PrimaryKeyConstraint("alert", "since"),
    Index("alerts_by_state", "state"),
)

# What people ordered; `refused` is why nothing was done, `minutes` how long they say it took.
# By where it stands: two orders may be alike.
AUDIT = _table(
    "audit",
    _number("partition"),
    Column("offset", BigInteger, nullable=False),
    _text("what"),
    _text("by"),
    _text("reason", null=True),
    _text("letter", null=True),
    _number("generation", null=True),
    _text("task", null=True),
    _text("run", null=True),
    _text("flow", null=True),
    _text("refused", null=True),
    _time("at"),
    _number("minutes", null=True),
    PrimaryKeyConstraint("partition", "offset"),
    Index("audit_by_run", "run"),
    Index("audit_by_time", "at"),
)

# How each outside system is. `breaker` is CLOSED, HALF_OPEN or OPEN.
SYSTEMS = _table(
    "systems",
    _text("system"),
    _text("breaker"),
    _text("reason", null=True),
    _time("since"),
    _time("at"),
    PrimaryKeyConstraint("system"),
)

# When a service that watches the others was heard last.
HEARTBEATS = _table(
    "heartbeats",
    _text("service"),
    _text("instance"),
    _time("started_at"),
    _time("at"),
    PrimaryKeyConstraint("service"),
)

# Records that could not be read, kept as they were.
UNREADABLE = _table(
    "unreadable",
    _text("topic"),
    _number("partition"),
    Column("offset", BigInteger, nullable=False),
    _time("timestamp"),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    _text("why"),
    PrimaryKeyConstraint("topic", "partition", "offset"),
)

# How far each topic was read, written together with the rows; `high` is where it ended when console last looked.
POSITIONS = _table(
    "positions",
    _text("topic"),
    _number("partition"),
    Column("next", BigInteger, nullable=False),
    Column("high", BigInteger),
    PrimaryKeyConstraint("topic", "partition"),
)
