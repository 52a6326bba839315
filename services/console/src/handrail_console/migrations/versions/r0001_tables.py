"""The tables, dead letters with their states, and the counts of data quality."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_KINDS = {"text": sa.Text, "int": sa.Integer, "long": sa.BigInteger, "bytes": sa.LargeBinary}

# `?` after a kind: may be NULL. The words before `|` are the primary key.
_TABLES = {
    "ledger": "id:text | made_at:long seen_at:long",
    "runs": """run:text | flow:text version:int route:text dedupe:text segments:text trace:text? sequence:int state:text
      step:text? failure_class:text? reason:text? started_at:long updated_at:long""",
    "run_segments": "run:text name:text | value:text",
    "transitions": """run:text sequence:int | previous:text? state:text event:text step:text? failure_class:text? reason:text?
      attempts:int actor:text? task:text? first_failure_at:long? at:long partition:int offset:long repeats:int=0""",
    "tasks": """task:text | run:text flow:text version:int route:text step:text kind:text state:text group:text title:text
      context:text runbook:text? due_at:long? decided_by:text? reason:text? opened_at:long at:long""",
    "dead_letters": """letter:text | generation:int stage:text flow:text? version:int? run:text? route:text? step:text?
      topic:text partition:int offset:long timestamp:long key:bytes? value:bytes? headers:text event_id:text? contract:text?
      failure_class:text field:text? exception:text? message:text stack:text? fingerprint:text attempts:int trace:text?
      payload_hash:text failed_at:long first_failed_at:long""",
    "letter_states": "letter:text | generation:int state:text replays:int by:text? reason:text? at:long",
    "failures": """letter:text generation:int | stage:text flow:text? run:text? step:text? failure_class:text contract:text?
      field:text? problem:text? first_failed_at:long failed_at:long""",
    "unreadable": "topic:text partition:int offset:long | timestamp:long key:bytes? value:bytes? why:text",
    "positions": "topic:text partition:int | next:long high:long?",
}
_WITH_ROWID = {"dead_letters"}  # large rows: they would make the tree of a table without them deep

# A dead letter with its state. One that recovery has not seen yet, or that failed again since, is OPEN.
_LETTERS = """
CREATE VIEW letters AS
SELECT
  l.*,
  CASE WHEN s.generation >= l.generation THEN s.state ELSE 'OPEN' END AS state,
  coalesce(s.replays, 0) AS replays,
  CASE WHEN s.generation >= l.generation THEN s.by END AS state_by,
  CASE WHEN s.generation >= l.generation THEN s.reason END AS state_reason,
  CASE WHEN s.generation >= l.generation THEN s.at ELSE l.failed_at END AS state_at
FROM dead_letters AS l LEFT JOIN letter_states AS s ON s.letter = l.letter
"""

# Which fields of which contract (its version is part of its name) were missing or invalid, by day (UTC). A message
# counts once for each time that it became a dead letter.
_DATA_QUALITY = """
CREATE VIEW data_quality AS
SELECT contract, field, problem, {day} AS day, flow, count(*) AS failures, count(DISTINCT letter) AS messages
FROM failures WHERE field IS NOT NULL AND failure_class = 'contract'
GROUP BY contract, field, problem, {day}, flow
"""
_DAY = {
    "sqlite": "strftime('%Y-%m-%d', failed_at / 1000, 'unixepoch')",
    "postgresql": "to_char(to_timestamp(failed_at / 1000) AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
}


def upgrade() -> None:
    for name, columns in _TABLES.items():
        key, _, rest = columns.partition("|")
        keys = [_column(word) for word in key.split()]
        others = [_column(word) for word in rest.split()]
        only = {"sqlite_with_rowid": name in _WITH_ROWID}
        primary = sa.PrimaryKeyConstraint(*(column.name for column in keys))
        op.create_table(name, *keys, *others, primary, **only)
    op.create_index("runs_by_route", "runs", ["route"], postgresql_using="hash")
    op.create_index("runs_by_time", "runs", ["updated_at"])
    op.create_index("tasks_by_run", "tasks", ["run"])
    op.create_index("dead_letters_by_run", "dead_letters", ["run"])
    op.create_index("failures_by_run", "failures", ["run"])
    op.execute(_LETTERS)
    op.execute(_DATA_QUALITY.format(day=_DAY[op.get_bind().dialect.name]))


def _column(word: str) -> sa.Column[Any]:
    name, _, kind = word.partition(":")
    kind, _, default = kind.partition("=")
    nullable = kind.endswith("?")
    return sa.Column(name, _KINDS[kind.rstrip("?")](), nullable=nullable, server_default=default or None)
