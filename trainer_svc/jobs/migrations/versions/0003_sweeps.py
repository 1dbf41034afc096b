"""Jobs that carry out a sweep."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add what is known of the trials; an earlier release leaves it NULL."""
    op.add_column("jobs", sa.Column("sweep", sa.JSON))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("jobs", "sweep")
