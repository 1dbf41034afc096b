"""Jobs and their events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "jobs",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("job", sa.String(63), nullable=False),
        sa.Column("request_id", sa.String(128)),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("adapter", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True)),
        sa.Column("end_time", sa.DateTime(timezone=True)),
        sa.Column("error", sa.JSON),
        sa.Column("progress", sa.JSON),
        sa.Column("effective_hyperparameters", sa.JSON),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("lease_owner", sa.String(128)),
        sa.Column("lease_epoch", sa.Integer, nullable=False),
        sa.Column("allocated_version", sa.String(128)),
        sa.Column("publication", sa.JSON),
        sa.Column("version", sa.String(255), nullable=False),
        sa.Column("promoted", sa.Boolean, nullable=False),
        sa.Column("promotion_refusal", sa.String(64), nullable=False),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "job", name="pk_jobs"),
        sa.UniqueConstraint("tenant", "request_id", name="uq_jobs_tenant_request_id"),
    )
    op.create_index("ix_jobs_state_create_time", "jobs", ["state", "create_time"])
    op.create_index("ix_jobs_tenant_create_time", "jobs", ["tenant", "create_time"])
    op.create_table(
        "events",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("job", sa.String(63), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "job", "sequence", name="pk_events"),
        sa.ForeignKeyConstraint(
            ["tenant", "job"], ["jobs.tenant", "jobs.job"], name="fk_events_tenant_job"
        ),
    )


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("events")
    op.drop_table("jobs")
