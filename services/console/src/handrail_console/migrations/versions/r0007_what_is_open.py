"""Indexes for what console counts every few seconds: without them it reads every payload and every task there ever was."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # All that the count needs of a letter: the table, which has the payloads, is not read.
    op.create_index(
        "dead_letters_by_flow",
        "dead_letters",
        ["flow", "stage", "failure_class", "first_failed_at", "letter", "generation"],
    )
    is_open = sa.text("state = 'open'")
    op.create_index("tasks_that_are_open", "tasks", ["flow"], sqlite_where=is_open, postgresql_where=is_open)
