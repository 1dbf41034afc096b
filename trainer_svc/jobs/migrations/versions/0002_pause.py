"""Jobs that are to be paused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the request; the default lets an earlier release write into the same table."""
    op.add_column(
        "jobs",
        sa.Column("pause_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    )


def downgrade() -> None:
    """Drop the request."""
    op.drop_column("jobs", "pause_requested")
