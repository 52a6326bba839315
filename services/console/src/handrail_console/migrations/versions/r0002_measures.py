"""The measures as views: cases first (one row each), then what they come to by flow, segment and week.

Rules, the same in every view. Times are ms since the epoch. `week` is the Monday (UTC) of the week in which the run began;
for what never became a run, in which it first failed. `segment` is `all`, or `name=value` of one of the run's segments. p50
and p95 are times within which so many of all cases were over: one that is still open counts as longer than any other, so
that it is never left out. They are NULL as long as too many are open.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_DATE = {
    "sqlite": "date(({days}) * 86400, 'unixepoch')",
    "postgresql": "to_char(to_timestamp(({days}) * 86400) AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
}
_FINISHED = "'done', 'done-by-hand', 'rejected', 'compensated', 'cancelled'"

# Runs, once for all of them and once for each of their segments.
_MEASURED_RUNS = f"""
CREATE VIEW measured_runs AS
SELECT r.run, r.flow, s.segment, {{week:r.started_at}} AS week, r.started_at AS began_at, r.state,
  CASE WHEN r.state IN ({_FINISHED}) THEN r.updated_at - r.started_at END AS took_ms
FROM runs AS r JOIN (
  SELECT run, 'all' AS segment FROM runs UNION ALL SELECT run, name || '=' || value FROM run_segments
) AS s ON s.run = r.run
"""

# Everything that failed for good, so that somebody or something had to help: a step of a run, or a dead letter.
_FAILURE_EVENTS = """
CREATE VIEW failure_events AS
SELECT run AS case_id, coalesce(first_failure_at, at) AS failed_at, failure_class
FROM transitions WHERE (failure_class IS NOT NULL OR first_failure_at IS NOT NULL) AND failure_class IS NOT NULL
UNION ALL
SELECT coalesce(run, letter), first_failed_at, failure_class FROM failures
"""

# Measure 1: a run, or an event that never became one, counts once, under the class that it failed with first.
_FAILED_CASES = """
CREATE VIEW failed_cases AS
SELECT e.case_id, e.failed_at, e.failure_class, coalesce(r.flow, f.flow, f.stage) AS flow, r.run,
  coalesce(r.started_at, e.failed_at) AS began_at
FROM (
  SELECT case_id, failed_at, failure_class,
    row_number() OVER (PARTITION BY case_id ORDER BY failed_at, failure_class) AS place
  FROM failure_events
) AS e
LEFT JOIN runs AS r ON r.run = e.case_id
LEFT JOIN (
  SELECT coalesce(run, letter) AS case_id, min(flow) AS flow, min(stage) AS stage FROM failures GROUP BY 1
) AS f ON f.case_id = e.case_id
WHERE e.place = 1
"""
_MEASURED_FAILURES = """
CREATE VIEW measured_failures AS
SELECT c.case_id, c.flow, 'all' AS segment, {week:c.began_at} AS week, c.began_at, c.failed_at, c.failure_class
FROM failed_cases AS c
UNION ALL
SELECT c.case_id, c.flow, s.name || '=' || s.value, {week:c.began_at}, c.began_at, c.failed_at, c.failure_class
FROM failed_cases AS c JOIN run_segments AS s ON s.run = c.run
"""
_MEASURE_FAILED_RUNS = """
CREATE VIEW measure_failed_runs AS
SELECT flow, segment, week, failure_class, count(*) AS failed
FROM measured_failures GROUP BY flow, segment, week, failure_class
"""

# Measure 2: from the first failure until it was verified, compensated or handed over to a person. Those of a step, its
# retries included, from the transitions; those of dead letters without such a step from the letter. What a person has
# discarded is closed and not recovered: it is counted apart, and in no p50.
_RECOVERIES = """
CREATE VIEW recoveries AS
SELECT t.run AS case_id, t.run, t.step, r.flow, r.started_at AS began_at, t.failed_at, t.recovered_at, t.how,
  CASE WHEN t.recovered_at IS NULL THEN d.at END AS discarded_at
FROM (
  SELECT run, step, min(coalesce(first_failure_at, at)) AS failed_at,
    min(CASE WHEN state IN ('manual', 'done-by-hand', 'compensated')
      OR (event = 'outcome' AND failure_class IS NULL) THEN at END) AS recovered_at,
    CASE WHEN count(CASE WHEN state IN ('manual', 'done-by-hand') THEN 1 END) > 0 THEN 'manual'
      WHEN count(CASE WHEN state = 'compensated' THEN 1 END) > 0 THEN 'compensation'
      WHEN count(CASE WHEN event = 'replay' THEN 1 END) > 0 THEN 'replay' ELSE 'retry' END AS how
  FROM transitions WHERE failure_class IS NOT NULL OR first_failure_at IS NOT NULL
  GROUP BY run, step
) AS t
JOIN runs AS r ON r.run = t.run
LEFT JOIN (
  SELECT f.run, f.step, max(s.at) AS at
  FROM failures AS f JOIN letter_states AS s ON s.letter = f.letter AND s.state = 'DISCARDED' GROUP BY f.run, f.step
) AS d ON d.run = t.run AND d.step = t.step
UNION ALL
SELECT coalesce(f.run, f.letter), f.run, f.step, coalesce(r.flow, f.flow, f.stage), coalesce(r.started_at, f.failed_at),
  f.failed_at,
  CASE WHEN s.generation >= f.generation AND s.state IN ('RESOLVED', 'MANUAL') THEN s.at END,
  CASE WHEN s.state = 'MANUAL' THEN 'manual' ELSE 'replay' END,
  CASE WHEN s.generation >= f.generation AND s.state = 'DISCARDED' THEN s.at END
FROM (
  SELECT letter, min(run) AS run, min(step) AS step, min(flow) AS flow, min(stage) AS stage,
    max(generation) AS generation, min(first_failed_at) AS failed_at
  FROM failures GROUP BY letter
) AS f
LEFT JOIN letter_states AS s ON s.letter = f.letter
LEFT JOIN runs AS r ON r.run = f.run
WHERE f.run IS NULL OR f.step IS NULL OR NOT EXISTS (
  SELECT 1 FROM transitions AS t WHERE t.run = f.run AND t.step = f.step AND t.failure_class IS NOT NULL
)
"""
_MEASURED_RECOVERIES = """
CREATE VIEW measured_recoveries AS
SELECT c.*, 'all' AS segment, {week:c.began_at} AS week, c.recovered_at - c.failed_at AS took_ms FROM recoveries AS c
UNION ALL
SELECT c.*, s.name || '=' || s.value, {week:c.began_at}, c.recovered_at - c.failed_at
FROM recoveries AS c JOIN run_segments AS s ON s.run = c.run
"""
_MEASURE_RECOVERY = """
CREATE VIEW measure_recovery AS
SELECT flow, segment, week, count(*) AS failures, count(recovered_at) AS recovered,
  count(CASE WHEN recovered_at IS NULL AND discarded_at IS NULL THEN 1 END) AS still_open,
  count(discarded_at) AS discarded,
  min(CASE WHEN recovered_at IS NULL AND discarded_at IS NULL THEN failed_at END) AS oldest_open_at,
  count(CASE WHEN recovered_at IS NOT NULL AND how = 'retry' THEN 1 END) AS by_retry,
  count(CASE WHEN recovered_at IS NOT NULL AND how = 'replay' THEN 1 END) AS by_replay,
  count(CASE WHEN recovered_at IS NOT NULL AND how = 'manual' THEN 1 END) AS by_hand,
  max(CASE WHEN discarded_at IS NULL AND place = (n + 1) / 2 THEN took_ms END) AS p50_ms,
  max(CASE WHEN discarded_at IS NULL AND place = (95 * n + 99) / 100 THEN took_ms END) AS p95_ms
FROM (
  SELECT c.*,
    row_number() OVER (PARTITION BY flow, segment, week, discarded_at IS NULL ORDER BY took_ms IS NULL, took_ms) AS place,
    count(*) OVER (PARTITION BY flow, segment, week, discarded_at IS NULL) AS n
  FROM measured_recoveries AS c
) AS ranked
GROUP BY flow, segment, week
"""

# Measure 3: what was stopped by the stages, and what was found later: steps of runs that the ledger has seen twice. A
# duplicate is stopped before anybody knows its segment. `week` is that in which it was stopped or found.
_MEASURED_DUPLICATES = """
CREATE VIEW measured_duplicates AS
SELECT coalesce(flow, stage) AS flow, {week:at} AS week, at AS began_at, count AS stopped, 0 AS found
FROM stage_counts WHERE name = 'duplicates'
UNION ALL
SELECT r.flow, {week:t.at}, t.at, 0, t.repeats
FROM transitions AS t JOIN runs AS r ON r.run = t.run WHERE t.repeats > 0
"""
_MEASURE_DUPLICATES = """
CREATE VIEW measure_duplicates AS
SELECT flow, 'all' AS segment, week, CAST(sum(stopped) AS BIGINT) AS stopped, CAST(sum(found) AS BIGINT) AS found,
  CAST(sum(stopped) AS DOUBLE PRECISION) / sum(stopped + found) AS success
FROM measured_duplicates GROUP BY flow, week
"""

# Measure 4: runs that a person finished instead of the machine: why they were asked, and how long it took from then.
_BY_HAND = """
CREATE VIEW by_hand AS
SELECT d.run, r.flow, r.started_at AS began_at, coalesce(a.failure_class, 'review') AS why, a.reason AS asked_because,
  a.at AS asked_at, d.at AS done_at, d.at - a.at AS took_ms, d.actor, d.reason
FROM transitions AS d
JOIN runs AS r ON r.run = d.run
LEFT JOIN transitions AS a ON a.run = d.run AND a.sequence = (
  SELECT min(x.sequence) FROM transitions AS x
  WHERE x.run = d.run AND x.task = d.task AND x.state IN ('waiting', 'manual')
)
WHERE d.state = 'done-by-hand'
"""
_MEASURED_BY_HAND = """
CREATE VIEW measured_by_hand AS
SELECT b.*, m.segment, m.week FROM by_hand AS b JOIN measured_runs AS m ON m.run = b.run
"""
_MEASURE_MANUAL = f"""
CREATE VIEW measure_manual AS
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
    SELECT c.*, row_number() OVER (PARTITION BY flow, segment, week ORDER BY took_ms) AS place,
      count(*) OVER (PARTITION BY flow, segment, week) AS n
    FROM measured_by_hand AS c
  ) AS ranked GROUP BY flow, segment, week
) AS b ON b.flow = m.flow AND b.segment = m.segment AND b.week = m.week
"""

# Beside them: how runs end and how long they take, and how long tasks wait for whom (`week` is that of the task's opening).
_MEASURE_RUNS = f"""
CREATE VIEW measure_runs AS
SELECT flow, segment, week, count(*) AS runs,
  count(CASE WHEN state = 'done' THEN 1 END) AS done,
  count(CASE WHEN state = 'done-by-hand' THEN 1 END) AS done_by_hand,
  count(CASE WHEN state = 'rejected' THEN 1 END) AS rejected,
  count(CASE WHEN state = 'failed' THEN 1 END) AS failed,
  count(CASE WHEN state IN ('compensated', 'cancelled') THEN 1 END) AS undone,
  count(CASE WHEN state NOT IN ({_FINISHED}, 'failed') THEN 1 END) AS under_way,
  max(CASE WHEN place = (n + 1) / 2 THEN took_ms END) AS p50_ms,
  max(CASE WHEN place = (95 * n + 99) / 100 THEN took_ms END) AS p95_ms
FROM (
  SELECT c.*, row_number() OVER (PARTITION BY flow, segment, week ORDER BY took_ms IS NULL, took_ms) AS place,
    count(*) OVER (PARTITION BY flow, segment, week) AS n
  FROM measured_runs AS c
) AS ranked
GROUP BY flow, segment, week
"""
_MEASURE_WAITING = """
CREATE VIEW measure_waiting AS
SELECT flow, owner, week, count(*) AS tasks, count(CASE WHEN took_ms IS NULL THEN 1 END) AS still_open,
  min(CASE WHEN took_ms IS NULL THEN opened_at END) AS oldest_open_at, CAST(sum(took_ms) AS BIGINT) AS waited_ms,
  max(CASE WHEN place = (n + 1) / 2 THEN took_ms END) AS p50_ms,
  max(CASE WHEN place = (95 * n + 99) / 100 THEN took_ms END) AS p95_ms
FROM (
  SELECT c.*, row_number() OVER (PARTITION BY flow, owner, week ORDER BY took_ms IS NULL, took_ms) AS place,
    count(*) OVER (PARTITION BY flow, owner, week) AS n
  FROM (
    SELECT flow, "group" AS owner, {week:opened_at} AS week, opened_at,
      CASE WHEN state <> 'open' THEN at - opened_at END AS took_ms
    FROM tasks
  ) AS c
) AS ranked
GROUP BY flow, owner, week
"""
_VIEWS = (
    _MEASURED_RUNS,
    _FAILURE_EVENTS,
    _FAILED_CASES,
    _MEASURED_FAILURES,
    _MEASURE_FAILED_RUNS,
    _RECOVERIES,
    _MEASURED_RECOVERIES,
    _MEASURE_RECOVERY,
    _MEASURED_DUPLICATES,
    _MEASURE_DUPLICATES,
    _BY_HAND,
    _MEASURED_BY_HAND,
    _MEASURE_MANUAL,
    _MEASURE_RUNS,
    _MEASURE_WAITING,
)


def upgrade() -> None:
    op.create_table(
        "stage_counts",
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("flow", sa.Text),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("partition", "offset", "name"),
        sqlite_with_rowid=False,
    )
    failed = sa.text("failure_class IS NOT NULL OR first_failure_at IS NOT NULL")
    op.create_index(
        "transitions_that_failed", "transitions", ["run", "step"], sqlite_where=failed, postgresql_where=failed
    )
    for view in _VIEWS:
        op.execute(_with_weeks(view, op.get_bind().dialect.name))


def _with_weeks(view: str, dialect: str) -> str:
    """`{week:<time>}` as SQL: days since the epoch began on a Thursday, back to the Monday before."""
    before, found, rest = view.partition("{week:")
    if not found:
        return view
    time, _, after = rest.partition("}")
    days = f"{time} / 86400000 - ({time} / 86400000 + 3) % 7"
    return before + _DATE[dialect].format(days=days) + _with_weeks(after, dialect)
