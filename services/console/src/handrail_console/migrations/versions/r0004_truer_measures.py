"""Views of r0002 made anew, by its rules and with its columns, and the indexes that they need."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_DATE = {
    "sqlite": "date(({days}) * 86400, 'unixepoch')",
    "postgresql": "to_char(to_timestamp(({days}) * 86400) AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
}

_FINISHED = "'done', 'done-by-hand', 'rejected', 'compensated', 'cancelled'"

# Runs, once for all of them and once for each of their segments: in two halves, so that the first one is a walk over `runs`.
_MEASURED_RUNS = f"""
SELECT r.run, r.flow, 'all' AS segment, {{week:r.started_at}} AS week, r.started_at AS began_at, r.state,
  CASE WHEN r.state IN ({_FINISHED}) THEN r.updated_at - r.started_at END AS took_ms
FROM runs AS r
UNION ALL
SELECT r.run, r.flow, s.name || '=' || s.value, {{week:r.started_at}}, r.started_at, r.state,
  CASE WHEN r.state IN ({_FINISHED}) THEN r.updated_at - r.started_at END
FROM run_segments AS s JOIN runs AS r ON r.run = s.run
"""

# Measure 3. What was found is counted in runs, as what was stopped is in events: a run that went its way twice has repeated
# each of its steps, and is one duplicate that passed.
_MEASURED_DUPLICATES = """
SELECT coalesce(flow, stage) AS flow, {week:at} AS week, at AS began_at, count AS stopped, 0 AS found
FROM stage_counts WHERE name = 'duplicates'
UNION ALL
SELECT r.flow, {week:t.at}, t.at, 0, t.repeats
FROM (SELECT run, min(at) AS at, max(repeats) AS repeats FROM transitions WHERE repeats > 0 GROUP BY run) AS t
JOIN runs AS r ON r.run = t.run
"""
_MEASURE_DUPLICATES = """
SELECT flow, 'all' AS segment, week, CAST(sum(stopped) AS BIGINT) AS stopped, CAST(sum(found) AS BIGINT) AS found,
  CAST(sum(stopped) AS DOUBLE PRECISION) / nullif(sum(stopped + found), 0) AS success
FROM measured_duplicates GROUP BY flow, week
"""

# Measure 4. Where nobody knows any more when a person was asked, the time is longer than any other, in every database.
_MEASURE_MANUAL = f"""
SELECT m.flow, m.segment, m.week, m.finished, m.by_hand,
  CAST(m.by_hand AS DOUBLE PRECISION) / nullif(m.finished, 0) AS share, b.p50_ms, b.p95_ms
FROM (
  SELECT flow, segment, week, count(CASE WHEN state IN ({_FINISHED}) THEN 1 END) AS finished,
    count(CASE WHEN state = 'done-by-hand' THEN 1 END) AS by_hand
  FROM measured_runs GROUP BY flow, segment, week
) AS m
LEFT JOIN (
  SELECT flow, segment, week, max(CASE WHEN place = (n + 1) / 2 THEN took_ms END) AS p50_ms,
    max(CASE WHEN place = (95 * n + 99) / 100 THEN took_ms END) AS p95_ms
  FROM (
    SELECT c.*, row_number() OVER (PARTITION BY flow, segment, week ORDER BY took_ms IS NULL, took_ms) AS place,
      count(*) OVER (PARTITION BY flow, segment, week) AS n
    FROM measured_by_hand AS c
  ) AS ranked GROUP BY flow, segment, week
) AS b ON b.flow = m.flow AND b.segment = m.segment AND b.week = m.week
"""

# `tasks` is compacted: of a task that was closed before it was read, only the closing is left. When it was opened stands
# in the transition that opened it; `runs` keeps those for a year.
_MEASURE_WAITING = """
SELECT flow, owner, week, count(*) AS tasks, count(CASE WHEN took_ms IS NULL THEN 1 END) AS still_open,
  min(CASE WHEN took_ms IS NULL THEN opened_at END) AS oldest_open_at, CAST(sum(took_ms) AS BIGINT) AS waited_ms,
  max(CASE WHEN place = (n + 1) / 2 THEN took_ms END) AS p50_ms,
  max(CASE WHEN place = (95 * n + 99) / 100 THEN took_ms END) AS p95_ms
FROM (
  SELECT c.*, row_number() OVER (PARTITION BY flow, owner, week ORDER BY took_ms IS NULL, took_ms) AS place,
    count(*) OVER (PARTITION BY flow, owner, week) AS n
  FROM (
    SELECT flow, owner, {week:opened_at} AS week, opened_at, CASE WHEN state <> 'open' THEN at - opened_at END AS took_ms
    FROM (
      SELECT k.flow, k."group" AS owner, k.state, k.at, coalesce((
        SELECT min(t.at) FROM transitions AS t
        WHERE t.run = k.run AND t.task = k.task AND t.state IN ('waiting', 'manual')
      ), k.opened_at) AS opened_at
      FROM tasks AS k
    ) AS opened
  ) AS c
) AS ranked
GROUP BY flow, owner, week
"""
_VIEWS = {
    "measured_runs": _MEASURED_RUNS,
    "measured_duplicates": _MEASURED_DUPLICATES,
    "measure_duplicates": _MEASURE_DUPLICATES,
    "measure_manual": _MEASURE_MANUAL,
    "measure_waiting": _MEASURE_WAITING,
}
_INDEXES = {"transitions_by_hand": "state = 'done-by-hand'", "transitions_repeated": "repeats > 0"}


def upgrade() -> None:
    for name, which in _INDEXES.items():
        few = sa.text(which)
        op.create_index(name, "transitions", ["run"], sqlite_where=few, postgresql_where=few)
    dialect = op.get_bind().dialect.name
    for name, query in _VIEWS.items():
        # PostgreSQL drops no view that people have put theirs on, but replaces it; SQLite is the other way round.
        if dialect == "sqlite":
            op.execute(f"DROP VIEW {name}")
        make = "CREATE VIEW" if dialect == "sqlite" else "CREATE OR REPLACE VIEW"
        op.execute(f"{make} {name} AS {_with_weeks(query, dialect)}")


def _with_weeks(view: str, dialect: str) -> str:
    """`{week:<time>}` as SQL: days since the epoch began on a Thursday, back to the Monday before."""
    before, found, rest = view.partition("{week:")
    if not found:
        return view
    time, _, after = rest.partition("}")
    days = f"{time} / 86400000 - ({time} / 86400000 + 3) % 7"
    return before + _DATE[dialect].format(days=days) + _with_weeks(after, dialect)
