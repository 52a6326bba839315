"""The tables of the sandbox's books, and how a connection to them is opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from handrail_sandbox.errors import BooksError

VERSION = 1

TABLES = """
CREATE TABLE calls (
  id INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  system TEXT NOT NULL,
  operation TEXT NOT NULL,
  method TEXT NOT NULL,
  path TEXT NOT NULL,
  reference TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  idempotency_key TEXT,
  traceparent TEXT,
  body TEXT NOT NULL,
  body_hash TEXT NOT NULL,
  fault TEXT,
  replayed INTEGER NOT NULL DEFAULT 0,
  ending TEXT NOT NULL,
  status INTEGER,
  ended_at INTEGER
);
CREATE INDEX calls_by_reference ON calls (system, operation, reference);
CREATE TABLE effects (
  id INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  system TEXT NOT NULL,
  kind TEXT NOT NULL,
  reference TEXT NOT NULL,
  amount_minor INTEGER,
  currency TEXT,
  idempotency_key TEXT,
  call INTEGER NOT NULL REFERENCES calls (id)
);
CREATE INDEX effects_by_reference ON effects (system, kind, reference);
CREATE TABLE replies (
  system TEXT NOT NULL,
  key TEXT NOT NULL,
  request TEXT NOT NULL,
  status INTEGER NOT NULL,
  body TEXT NOT NULL,
  headers TEXT NOT NULL,
  PRIMARY KEY (system, key)
) WITHOUT ROWID;
CREATE TABLE faults (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  system TEXT NOT NULL,
  rule TEXT NOT NULL,
  spent INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE settings (system TEXT PRIMARY KEY, idempotency TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE invoices (
  seq INTEGER PRIMARY KEY,
  invoice_id TEXT NOT NULL UNIQUE,
  reference TEXT NOT NULL,
  customer_id TEXT NOT NULL,
  total_minor INTEGER NOT NULL,
  currency TEXT NOT NULL,
  voided_at INTEGER
);
CREATE INDEX invoices_by_reference ON invoices (reference);
CREATE TABLE deals (deal_id TEXT PRIMARY KEY, stage TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE orders (
  order_id TEXT PRIMARY KEY,
  customer_id TEXT NOT NULL,
  total_minor INTEGER NOT NULL,
  currency TEXT NOT NULL
) WITHOUT ROWID;
"""


def open_books(path: Path) -> sqlite3.Connection:
    """Open the books for writing, making them where there are none.

    Raises BooksError when the folder is read-only or full, or the file is not a sandbox's books.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        if not _tables(connection):
            connection.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version={VERSION}; COMMIT;")
        _require_version(connection, path)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
    except (sqlite3.Error, OSError) as error:
        raise BooksError(
            f"the sandbox's books can't be kept at {path}: {error}; give another file with --db"
        ) from error
    return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open existing books for reading only; a server may be writing to them. Raises BooksError."""
    if not path.is_file():
        raise BooksError(f"there are no books at {path}; start a sandbox with --db {path}, or name the right file")
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.row_factory = sqlite3.Row
        # Not mode=ro: after a killed server only a connection that may write can recover its write-ahead log.
        connection.execute("PRAGMA query_only=1")
        _require_version(connection, path)
    except sqlite3.Error as error:
        raise BooksError(f"the books at {path} can't be read: {error}") from error
    return connection


def _tables(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _require_version(connection: sqlite3.Connection, path: Path) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version != VERSION:
        connection.close()
        raise BooksError(
            f"{path} is not a sandbox's books of this version (found {version}, need {VERSION}); give another file"
        )
