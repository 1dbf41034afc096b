"""The job store's tables. Migrations create them; `store.py` speaks to them."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

QUEUED = "state IN ('QUEUED', 'QUEUED_SWEEP')"
PUBLISHING = "state IN ('PUBLISHING', 'PUBLISHING_SWEEP')"
LEASED = "lease_owner IS NOT NULL"
"""What the partial indexes are of; a query finds them by these very words."""

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("job", sa.String(63), primary_key=True),
    sa.Column("request_id", sa.String(128)),
    sa.Column("request_sha256", sa.String(64), nullable=False),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("adapter", sa.String(255), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("start_time", sa.DateTime(timezone=True)),
    sa.Column("end_time", sa.DateTime(timezone=True)),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("progress", sa.JSON(none_as_null=True)),
    sa.Column("effective_hyperparameters", sa.JSON(none_as_null=True)),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("pause_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    # The lease: every write of a holder carries its epoch, and a later epoch shuts it out.
    sa.Column("lease_owner", sa.String(128)),
    sa.Column("lease_epoch", sa.Integer, nullable=False),
    # By the database's clock; NULL under a release that knows no such end.
    sa.Column("lease_expires", sa.DateTime(timezone=True)),
    # Number of the newest write under the lease's epoch.
    sa.Column("lease_write", sa.Integer, nullable=False, server_default="0"),
    # A job that waits is not taken up before, by the database's clock.
    sa.Column("not_before", sa.DateTime(timezone=True)),
    sa.Column("faults", sa.JSON(none_as_null=True)),
    # Id of the version allocated for the lease's epoch, before any of its files is uploaded.
    sa.Column("allocated_version", sa.String(128)),
    # The outbox: what must be written to the object store now that the version is committed.
    sa.Column("publication", sa.JSON(none_as_null=True)),
    sa.Column("version", sa.String(255), nullable=False),
    sa.Column("promoted", sa.Boolean, nullable=False),
    sa.Column("promotion_refusal", sa.String(64), nullable=False),
    sa.Column("last_sequence", sa.BigInteger, nullable=False),
    # What is known of a sweep's trials; NULL for a job of its own.
    sa.Column("sweep", sa.JSON(none_as_null=True)),
    # Of what the JSON columns hold: see rows.RECORD_VERSION.
    sa.Column("record_version", sa.Integer, nullable=False, server_default="1"),
    sa.UniqueConstraint("tenant", "request_id"),
    sa.Index(None, "state", "create_time"),
    sa.Index(None, "tenant", "create_time"),
    # A tenant has few sweeps among many jobs.
    sa.Index(
        "ix_jobs_sweeps",
        "tenant",
        "create_time",
        sqlite_where=sa.text("sweep IS NOT NULL"),
        postgresql_where=sa.text("sweep IS NOT NULL"),
    ),
    # The queue by tenant, in each tenant's order.
    sa.Index(
        "ix_jobs_queue",
        "tenant",
        sa.text("priority DESC"),
        "create_time",
        "job",
        sqlite_where=sa.text(QUEUED),
        postgresql_where=sa.text(QUEUED),
    ),
    sa.Index(
        "ix_jobs_publishing",
        "not_before",
        sqlite_where=sa.text(PUBLISHING),
        postgresql_where=sa.text(PUBLISHING),
    ),
    sa.Index(
        "ix_jobs_leases",
        "lease_owner",
        "tenant",
        sqlite_where=sa.text(LEASED),
        postgresql_where=sa.text(LEASED),
    ),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("job", sa.String(63), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("record_version", sa.Integer, nullable=False, server_default="1"),
    sa.ForeignKeyConstraint(["tenant", "job"], ["jobs.tenant", "jobs.job"]),
)
