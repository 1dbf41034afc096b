"""The pages of a tenant's jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tailorbird.names import AdapterName, TenantName
from trainer_svc.jobs.model import JobState
from trainer_svc.jobs.rows import in_state
from trainer_svc.jobs.tables import jobs


def newest_first(
    tenant: TenantName,
    limit: int,
    after: tuple[datetime, str] | None,
    state: JobState | None,
    adapter: AdapterName | None,
    *,
    sweeps: bool,
) -> sa.Select[Any]:
    """Select up to `limit` jobs that come after the (create_time, job) given, as narrowed.

    `sweeps`: only those that carry one out.
    """
    query = sa.select(jobs).where(jobs.c.tenant == tenant.tenant)
    if after is not None:
        older = sa.tuple_(jobs.c.create_time, jobs.c.job) < sa.tuple_(
            sa.literal(after[0], sa.DateTime(timezone=True)), sa.literal(after[1])
        )
        query = query.where(older)
    if state is not None:
        query = query.where(in_state(state))
    if sweeps:
        query = query.where(jobs.c.sweep.is_not(None))
    if adapter is not None:
        query = query.where(jobs.c.adapter == str(adapter))
    return query.order_by(jobs.c.create_time.desc(), jobs.c.job.desc()).limit(limit)
