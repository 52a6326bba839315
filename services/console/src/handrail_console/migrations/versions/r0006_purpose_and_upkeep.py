"""What flows are for, and what they cost to keep: by the rules of r0002, which says what `week`, `segment`, p50 and p95 are.

Amounts and times are what the flow declares (`outcomes` in its file), told by the first transition of each run; kept apart
from the counts of what was done. Work and upkeep count in the week in which they happened.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_DATE = {
    "sqlite": "date(({days}) * 86400, 'unixepoch')",
    "postgresql": "to_char(to_timestamp(({days}) * 86400) AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
}

# Where each run stands, for whoever waits for what it is about. At risk: it has failed for good, a person has to finish
# it, or a message of it is a dead letter. Given up: by a rule, by a person, or its dead letters were discarded.
_RUN_STANDINGS = """
CREATE VIEW run_standings AS
SELECT r.run, r.flow, r.state, r.started_at AS began_at, {week:r.started_at} AS week,
  CASE WHEN r.state IN ('done', 'done-by-hand') THEN 'done'
    WHEN r.state IN ('rejected', 'compensated', 'cancelled') THEN 'given_up'
    WHEN r.state = 'failed' AND r.failure_class IS NULL THEN 'given_up'
    WHEN l.open > 0 THEN 'at_risk'
    WHEN l.discarded > 0 THEN 'given_up'
    WHEN r.state IN ('failed', 'manual') THEN 'at_risk'
    ELSE 'under_way' END AS standing
FROM runs AS r LEFT JOIN (
  SELECT f.run, count(CASE WHEN s.state IS NULL OR s.state IN ('OPEN', 'REPLAYING', 'MANUAL') THEN 1 END) AS open,
    count(CASE WHEN s.state = 'DISCARDED' THEN 1 END) AS discarded
  FROM failures AS f LEFT JOIN letter_states AS s ON s.letter = f.letter
  WHERE f.run IS NOT NULL GROUP BY f.run
) AS l ON l.run = r.run
"""

# How long it took until what the flow is for was there: a step that was done (by the machine, or by a person who finished
# the run), or the run's good end. A run that went well without the step, or was rejected, did not want it: it is counted
# apart, and in no p50. One that was given up wanted it and never gets it.
_OUTCOME_TIMES = """
CREATE VIEW outcome_times AS
SELECT o.run, o.outcome, s.flow, s.began_at, s.week, o.since, o.within_ms, o.reached_at,
  o.reached_at - o.since AS took_ms,
  CASE WHEN o.reached_at IS NOT NULL THEN 'reached' WHEN s.standing = 'done' OR s.state = 'rejected' THEN 'not_wanted'
    WHEN s.standing = 'given_up' THEN 'given_up' ELSE 'open' END AS came_to
FROM (
  SELECT run, outcome, since, within_ms, coalesce(made_at, CASE WHEN skipped = 0 THEN by_hand_at END) AS reached_at
  FROM (
    SELECT d.run, d.name AS outcome, d.since, d.within_ms,
      min(CASE WHEN (d.step IS NULL AND t.state = 'done') OR (
        t.step = d.step AND t.event IN ('outcome', 'human-decision') AND t.failure_class IS NULL
        AND t.state NOT IN ('failed', 'rejected', 'done-by-hand')
      ) THEN t.at END) AS made_at,
      min(CASE WHEN t.state = 'done-by-hand' THEN t.at END) AS by_hand_at,
      count(CASE WHEN t.step = d.step AND t.event = 'skipped' THEN 1 END) AS skipped
    FROM run_outcomes AS d JOIN transitions AS t ON t.run = d.run
    WHERE d.amount IS NULL GROUP BY d.run, d.name, d.since, d.within_ms
  ) AS seen
) AS o JOIN run_standings AS s ON s.run = o.run
"""
_MEASURED_OUTCOME_TIMES = """
CREATE VIEW measured_outcome_times AS
SELECT c.*, 'all' AS segment FROM outcome_times AS c
UNION ALL
SELECT c.*, s.name || '=' || s.value FROM outcome_times AS c JOIN run_segments AS s ON s.run = c.run
"""
_MEASURE_OUTCOME_TIMES = """
CREATE VIEW measure_outcome_times AS
SELECT flow, segment, week, outcome, count(reached_at) AS reached,
  count(CASE WHEN came_to = 'open' THEN 1 END) AS still_open,
  min(CASE WHEN came_to = 'open' THEN since END) AS oldest_open_since,
  count(CASE WHEN came_to = 'given_up' THEN 1 END) AS given_up,
  count(CASE WHEN came_to = 'not_wanted' THEN 1 END) AS not_wanted,
  count(CASE WHEN wanted THEN within_ms END) AS promised,
  count(CASE WHEN took_ms <= within_ms THEN 1 END) AS kept,
  max(CASE WHEN wanted AND place = (n + 1) / 2 THEN took_ms END) AS p50_ms,
  max(CASE WHEN wanted AND place = (95 * n + 99) / 100 THEN took_ms END) AS p95_ms
FROM (
  SELECT c.*, came_to <> 'not_wanted' AS wanted,
    row_number() OVER (
      PARTITION BY flow, segment, week, outcome, came_to <> 'not_wanted' ORDER BY took_ms IS NULL, took_ms
    ) AS place,
    count(*) OVER (PARTITION BY flow, segment, week, outcome, came_to <> 'not_wanted') AS n
  FROM measured_outcome_times AS c
) AS ranked
GROUP BY flow, segment, week, outcome
"""

# Amounts by where their runs stand. What never became a run has told no amount.
_OUTCOME_AMOUNTS = """
CREATE VIEW outcome_amounts AS
SELECT o.run, o.name AS outcome, o.unit, o.amount, s.flow, s.standing, s.began_at, s.week
FROM run_outcomes AS o JOIN run_standings AS s ON s.run = o.run WHERE o.amount IS NOT NULL
"""
_MEASURED_AMOUNTS = """
CREATE VIEW measured_amounts AS
SELECT c.*, 'all' AS segment FROM outcome_amounts AS c
UNION ALL
SELECT c.*, s.name || '=' || s.value FROM outcome_amounts AS c JOIN run_segments AS s ON s.run = c.run
"""
_MEASURE_AMOUNTS = """
CREATE VIEW measure_amounts AS
SELECT flow, segment, week, outcome, unit, count(*) AS runs,
  sum(CASE WHEN standing = 'done' THEN amount ELSE 0 END) AS done,
  sum(CASE WHEN standing = 'under_way' THEN amount ELSE 0 END) AS under_way,
  sum(CASE WHEN standing = 'at_risk' THEN amount ELSE 0 END) AS at_risk,
  sum(CASE WHEN standing = 'given_up' THEN amount ELSE 0 END) AS given_up
FROM measured_amounts GROUP BY flow, segment, week, outcome, unit
"""

# What people ordered and was carried out, with the minutes that they say it took. Of a task only the first decision counts,
# by where it stands in the topic: later ones move nothing. Of a closed letter, the run is known from its failures.
_WORK = """
CREATE VIEW work AS
SELECT a.what, a."by", a.run, coalesce(a.flow, r.flow, a.stage, 'unknown') AS flow, a.minutes, a.at
FROM (
  SELECT o.what, o."by", o.at, o.minutes, o.flow, coalesce(o.run, f.run) AS run, coalesce(f.flow, f.stage) AS stage,
    row_number() OVER (
      PARTITION BY coalesce(o.task, CAST(o."partition" AS TEXT) || '/' || CAST(o."offset" AS TEXT))
      ORDER BY o."partition", o."offset"
    ) AS place
  FROM audit AS o LEFT JOIN (
    SELECT letter, max(run) AS run, max(flow) AS flow, max(stage) AS stage FROM failures GROUP BY letter
  ) AS f ON f.letter = o.letter
  WHERE o.refused IS NULL
) AS a LEFT JOIN runs AS r ON r.run = a.run
WHERE a.place = 1
"""
_MEASURED_WORK = """
CREATE VIEW measured_work AS
SELECT w.*, w.at AS began_at, 'all' AS segment, {week:w.at} AS week FROM work AS w WHERE w.what <> 'review'
UNION ALL
SELECT w.*, w.at, s.name || '=' || s.value, {week:w.at} FROM work AS w JOIN run_segments AS s ON s.run = w.run
"""
_MEASURE_WORK = """
CREATE VIEW measure_work AS
SELECT flow, segment, week, what, count(*) AS orders, count(minutes) AS told, CAST(sum(minutes) AS BIGINT) AS minutes
FROM measured_work GROUP BY flow, segment, week, what
"""

# Each task by itself: how long it waited for whom. `measure_waiting` of r0004 is made anew on it, by its rule.
_MEASURED_WAITING = """
CREATE VIEW measured_waiting AS
SELECT flow, owner, {week:opened_at} AS week, opened_at AS began_at,
  CASE WHEN state <> 'open' THEN at - opened_at END AS took_ms
FROM (
  SELECT k.flow, k."group" AS owner, k.state, k.at, coalesce((
    SELECT min(t.at) FROM transitions AS t
    WHERE t.run = k.run AND t.task = k.task AND t.state IN ('waiting', 'manual')
  ), k.opened_at) AS opened_at
  FROM tasks AS k
) AS opened
"""

_MEASURE_WAITING = """
SELECT flow, owner, week, count(*) AS tasks, count(CASE WHEN took_ms IS NULL THEN 1 END) AS still_open,
  min(CASE WHEN took_ms IS NULL THEN began_at END) AS oldest_open_at, CAST(sum(took_ms) AS BIGINT) AS waited_ms,
  max(CASE WHEN place = (n + 1) / 2 THEN took_ms END) AS p50_ms,
  max(CASE WHEN place = (95 * n + 99) / 100 THEN took_ms END) AS p95_ms
FROM (
  SELECT c.*, row_number() OVER (PARTITION BY flow, owner, week ORDER BY took_ms IS NULL, took_ms) AS place,
    count(*) OVER (PARTITION BY flow, owner, week) AS n
  FROM measured_waiting AS c
) AS ranked
GROUP BY flow, owner, week
"""

# As in r0002, by its rule and with its columns. Joining the letters' flows took a time that grew with the square of failures.
_FAILED_CASES = """
SELECT e.case_id, e.failed_at, e.failure_class, coalesce(r.flow, e.flow, e.stage) AS flow, r.run,
  coalesce(r.started_at, e.failed_at) AS began_at
FROM (
  SELECT case_id, failed_at, failure_class, min(flow) OVER (PARTITION BY case_id) AS flow,
    min(stage) OVER (PARTITION BY case_id) AS stage,
    row_number() OVER (PARTITION BY case_id ORDER BY failed_at, failure_class) AS place
  FROM (
    SELECT case_id, failed_at, failure_class, CAST(NULL AS TEXT) AS flow, CAST(NULL AS TEXT) AS stage FROM failure_events
    UNION ALL
    SELECT coalesce(run, letter), first_failed_at, failure_class, flow, stage FROM failures
  ) AS every
) AS e
LEFT JOIN runs AS r ON r.run = e.case_id
WHERE e.place = 1
"""

# What a flow costs to keep: its versions after the first one that the ledger knows, its reviews, and the alerts about it.
_MEASURED_UPKEEP = """
CREATE VIEW measured_upkeep AS
SELECT c.flow, {week:c.began_at} AS week, c.began_at, 'change' AS what, CAST(c.version AS TEXT) AS which,
  CAST(NULL AS BIGINT) AS took_ms, CAST(NULL AS INTEGER) AS minutes
FROM (
  SELECT flow, version, min(started_at) AS began_at, row_number() OVER (PARTITION BY flow ORDER BY version) AS place
  FROM runs GROUP BY flow, version
) AS c WHERE c.place > 1
UNION ALL
SELECT flow, {week:at}, at, 'review', "by", NULL, minutes FROM work WHERE what = 'review'
UNION ALL
SELECT flow, {week:since}, since, 'incident', rule, CASE WHEN state <> 'FIRING' THEN at - since END, NULL
FROM alerts WHERE flow IS NOT NULL
"""
_MEASURE_UPKEEP = """
CREATE VIEW measure_upkeep AS
SELECT flow, week, count(CASE WHEN what = 'change' THEN 1 END) AS changes,
  count(CASE WHEN what = 'review' THEN 1 END) AS reviews, CAST(sum(minutes) AS BIGINT) AS review_minutes,
  count(CASE WHEN what = 'incident' THEN 1 END) AS incidents,
  count(CASE WHEN what = 'incident' AND took_ms IS NULL THEN 1 END) AS still_open,
  CAST(sum(took_ms) AS BIGINT) AS incident_ms
FROM measured_upkeep GROUP BY flow, week
"""
_VIEWS = (
    _RUN_STANDINGS,
    _OUTCOME_TIMES,
    _MEASURED_OUTCOME_TIMES,
    _MEASURE_OUTCOME_TIMES,
    _OUTCOME_AMOUNTS,
    _MEASURED_AMOUNTS,
    _MEASURE_AMOUNTS,
    _WORK,
    _MEASURED_WORK,
    _MEASURE_WORK,
    _MEASURED_WAITING,
    _MEASURED_UPKEEP,
    _MEASURE_UPKEEP,
)
_ANEW = {"measure_waiting": _MEASURE_WAITING, "failed_cases": _FAILED_CASES}


def upgrade() -> None:
    op.create_table(
        "run_outcomes",
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("amount", sa.Double),
        sa.Column("unit", sa.Text),
        sa.Column("step", sa.Text),
        sa.Column("since", sa.BigInteger),
        sa.Column("within_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("run", "name"),
        sqlite_with_rowid=False,
    )
    op.add_column("audit", sa.Column("minutes", sa.Integer))
    dialect = op.get_bind().dialect.name
    for view in _VIEWS:
        op.execute(_with_weeks(view, dialect))
    for name, query in _ANEW.items():
        # As in r0004: PostgreSQL drops no view on which others stand, but replaces it; SQLite is the other way round.
        if dialect == "sqlite":
            op.execute(f"DROP VIEW {name}")
        op.execute(f"CREATE {'' if dialect == 'sqlite' else 'OR REPLACE '}VIEW {name} AS {query}")


def _with_weeks(view: str, dialect: str) -> str:
    """`{week:<time>}` as SQL: days since the epoch began on a Thursday, back to the Monday before."""
    before, found, rest = view.partition("{week:")
    if not found:
        return view
    time, _, after = rest.partition("}")
    days = f"{time} / 86400000 - ({time} / 86400000 + 3) % 7"
    return before + _DATE[dialect].format(days=days) + _with_weeks(after, dialect)
