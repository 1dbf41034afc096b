"""Jobs that carry out a sweep."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add what is known of the trials; an earlier release leaves it NULL."""
    op.add_column("jobs", sa.Column("sweep", sa.JSON))
    op.create_index(
        "ix_jobs_sweeps",
        "jobs",
        ["tenant", "create_time"],
        sqlite_where=sa.text("sweep IS NOT NULL"),
        postgresql_where=sa.text("sweep IS NOT NULL"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_jobs_sweeps", "jobs")
    op.drop_column("jobs", "sweep")
