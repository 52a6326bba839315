"""What monitor has found, and when it was heard last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ALERTS = (
    "alert since:t rule subject state severity sequence:n what means todo owner? runbook? flow? system? "
    "sent_to told at:t"
)
_HEARTBEATS = "service instance started_at:t at:t"
_KINDS = {"": sa.Text, "t": sa.BigInteger, "n": sa.Integer}


def upgrade() -> None:
    for name, columns, key in (("alerts", _ALERTS, ("alert", "since")), ("heartbeats", _HEARTBEATS, ("service",))):
        made = [_column(word) for word in columns.split()]
        op.create_table(name, *made, sa.PrimaryKeyConstraint(*key), sqlite_with_rowid=False)
    op.create_index("alerts_by_state", "alerts", ["state"])


def _column(word: str) -> sa.Column[str] | sa.Column[int]:
    name, _, kind = word.partition(":")
    return sa.Column(name.rstrip("?"), _KINDS[kind](), nullable=name.endswith("?"))
