"""The ledger's tables: the only place that knows them. Times are ms since the epoch, UTC.

A change here is a new VERSION; there are no migrations, because the ledger is rebuilt from the topics.
"""

from __future__ import annotations

VERSION = 1
APPLICATION = 0x48524C47
"""`PRAGMA application_id` of a ledger: the letters HRLG."""

SCHEMA = f"""
BEGIN IMMEDIATE;

-- One row for each run: its last state. Filled from the transitions.
CREATE TABLE runs (
  run TEXT PRIMARY KEY,
  flow TEXT NOT NULL,
  version INTEGER NOT NULL,
  route TEXT NOT NULL,
  dedupe TEXT NOT NULL,
  trace TEXT,
  sequence INTEGER NOT NULL,
  state TEXT NOT NULL,
  step TEXT,
  failure_class TEXT,
  reason TEXT,
  started_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX runs_by_route ON runs (route);
CREATE INDEX runs_by_time ON runs (updated_at);

-- Every committed step forward of every run. `repeats` is 0 as long as each came once.
CREATE TABLE transitions (
  run TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  previous TEXT,
  state TEXT NOT NULL,
  event TEXT NOT NULL,
  step TEXT,
  failure_class TEXT,
  reason TEXT,
  attempts INTEGER NOT NULL,
  actor TEXT,
  task TEXT,
  first_failure_at INTEGER,
  at INTEGER NOT NULL,
  "partition" INTEGER NOT NULL,
  "offset" INTEGER NOT NULL,
  repeats INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (run, sequence)
) WITHOUT ROWID;

CREATE TABLE tasks (
  task TEXT PRIMARY KEY,
  run TEXT NOT NULL,
  flow TEXT NOT NULL,
  version INTEGER NOT NULL,
  route TEXT NOT NULL,
  step TEXT NOT NULL,
  kind TEXT NOT NULL,
  state TEXT NOT NULL,
  "group" TEXT NOT NULL,
  title TEXT NOT NULL,
  context TEXT NOT NULL,
  runbook TEXT,
  due_at INTEGER,
  decided_by TEXT,
  reason TEXT,
  opened_at INTEGER NOT NULL,
  at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX tasks_by_run ON tasks (run);

-- Dead letters as they were written last; `headers` is JSON: [[name, text | null | {{"base64": ...}}], ...].
CREATE TABLE dead_letters (
  letter TEXT PRIMARY KEY,
  generation INTEGER NOT NULL,
  stage TEXT NOT NULL,
  flow TEXT,
  version INTEGER,
  run TEXT,
  route TEXT,
  step TEXT,
  topic TEXT NOT NULL,
  "partition" INTEGER NOT NULL,
  "offset" INTEGER NOT NULL,
  timestamp INTEGER NOT NULL,
  key BLOB,
  value BLOB,
  headers TEXT NOT NULL,
  event_id TEXT,
  contract TEXT,
  failure_class TEXT NOT NULL,
  field TEXT,
  exception TEXT,
  message TEXT NOT NULL,
  stack TEXT,
  fingerprint TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  trace TEXT,
  payload_hash TEXT NOT NULL,
  failed_at INTEGER NOT NULL,
  first_failed_at INTEGER NOT NULL
);
CREATE INDEX dead_letters_by_run ON dead_letters (run);

CREATE TABLE letter_states (
  letter TEXT PRIMARY KEY,
  generation INTEGER NOT NULL,
  state TEXT NOT NULL,
  replays INTEGER NOT NULL,
  by TEXT,
  reason TEXT,
  at INTEGER NOT NULL
) WITHOUT ROWID;

-- A dead letter with its state. One that recovery has not seen yet, or that failed again since, is OPEN.
CREATE VIEW letters AS
SELECT
  l.*,
  CASE WHEN s.generation >= l.generation THEN s.state ELSE 'OPEN' END AS state,
  coalesce(s.replays, 0) AS replays,
  CASE WHEN s.generation >= l.generation THEN s.by END AS state_by,
  CASE WHEN s.generation >= l.generation THEN s.reason END AS state_reason,
  CASE WHEN s.generation >= l.generation THEN s.at ELSE l.failed_at END AS state_at
FROM dead_letters AS l LEFT JOIN letter_states AS s USING (letter);

-- Records that could not be read, kept as they were.
CREATE TABLE unreadable (
  topic TEXT NOT NULL,
  "partition" INTEGER NOT NULL,
  "offset" INTEGER NOT NULL,
  timestamp INTEGER NOT NULL,
  key BLOB,
  value BLOB,
  why TEXT NOT NULL,
  PRIMARY KEY (topic, "partition", "offset")
);

-- How far each topic was read: written together with the rows.
CREATE TABLE positions (
  topic TEXT NOT NULL,
  "partition" INTEGER NOT NULL,
  next INTEGER NOT NULL,
  PRIMARY KEY (topic, "partition")
) WITHOUT ROWID;

PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""
