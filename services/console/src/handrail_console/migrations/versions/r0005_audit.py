"""Who ordered what, and how the outside systems are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("letter", sa.Text),
        sa.Column("generation", sa.Integer),
        sa.Column("task", sa.Text),
        sa.Column("run", sa.Text),
        sa.Column("flow", sa.Text),
        sa.Column("refused", sa.Text),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("partition", "offset"),
        sqlite_with_rowid=False,
    )
    op.create_index("audit_by_run", "audit", ["run"])
    op.create_index("audit_by_time", "audit", ["at"])
    op.create_table(
        "systems",
        sa.Column("system", sa.Text, nullable=False),
        sa.Column("breaker", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("system"),
        sqlite_with_rowid=False,
    )
