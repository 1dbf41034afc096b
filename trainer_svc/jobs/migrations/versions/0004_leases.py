"""Leases that end by the database's clock, writes that are numbered, and a queue with an order."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_QUEUED = sa.text("state IN ('QUEUED', 'QUEUED_SWEEP')")
_PUBLISHING = sa.text("state IN ('PUBLISHING', 'PUBLISHING_SWEEP')")
_LEASED = sa.text("lease_owner IS NOT NULL")


def upgrade() -> None:
    """Add them; to a release that knows leases without an end, every lease of before has ended."""
    op.add_column("jobs", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("lease_expires", sa.DateTime(timezone=True)))
    op.add_column("jobs", sa.Column("lease_write", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("not_before", sa.DateTime(timezone=True)))
    op.add_column("jobs", sa.Column("faults", sa.JSON))
    op.add_column(
        "jobs", sa.Column("record_version", sa.Integer, nullable=False, server_default="1")
    )
    op.add_column(
        "events", sa.Column("record_version", sa.Integer, nullable=False, server_default="1")
    )
    op.create_index(
        "ix_jobs_queue",
        "jobs",
        ["tenant", sa.text("priority DESC"), "create_time", "job"],
        sqlite_where=_QUEUED,
        postgresql_where=_QUEUED,
    )
    op.create_index(
        "ix_jobs_publishing",
        "jobs",
        ["not_before"],
        sqlite_where=_PUBLISHING,
        postgresql_where=_PUBLISHING,
    )
    op.create_index(
        "ix_jobs_leases",
        "jobs",
        ["lease_owner", "tenant"],
        sqlite_where=_LEASED,
        postgresql_where=_LEASED,
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_jobs_leases", "jobs")
    op.drop_index("ix_jobs_publishing", "jobs")
    op.drop_index("ix_jobs_queue", "jobs")
    op.drop_column("events", "record_version")
    for column in (
        "record_version",
        "faults",
        "not_before",
        "lease_write",
        "lease_expires",
        "priority",
    ):
        op.drop_column("jobs", column)
