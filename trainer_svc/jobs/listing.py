"""Looks at many jobs: the pages of a tenant's, how many there are, how far they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from tailorbird.names import AdapterName, JobName, TenantName
from trainer_svc.jobs.model import Job, JobState
from trainer_svc.jobs.rows import in_state, readable
from trainer_svc.jobs.tables import jobs

Position = tuple[datetime, str]
"""Where a job stands among a tenant's: its create_time and id."""

_MOST_NAMES = 200
"""In one query: databases bound how many values it has."""


async def newest_first(
    connection: AsyncConnection,
    tenant: TenantName,
    limit: int,
    after: Position | None,
    state: JobState | None,
    adapter: AdapterName | None,
    *,
    sweeps: bool,
) -> list[Job]:
    """Return up to `limit` jobs that come after the position given, as narrowed.

    `sweeps`: only those that carry one out. What this release cannot read is left out, and hides
    nothing that comes after it.
    """
    found: list[Job] = []
    while len(found) < limit:
        asked = limit - len(found)
        query = _narrowed(tenant, after, state, adapter, sweeps=sweeps).limit(asked)
        rows = (await connection.execute(query)).all()
        found += [job for row in rows if (job := readable(row)) is not None]
        if len(rows) < asked:
            break
        after = rows[-1].create_time, rows[-1].job
    return found


def _narrowed(
    tenant: TenantName,
    after: Position | None,
    state: JobState | None,
    adapter: AdapterName | None,
    *,
    sweeps: bool,
) -> sa.Select[Any]:
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
    return query.order_by(jobs.c.create_time.desc(), jobs.c.job.desc())


def counts_of(states: Collection[JobState]) -> sa.Select[str, int]:
    """Select how many jobs are in each of these states, as they are stored.

    Of jobs that have ended there are ever more: what does not ask for them does not read them.
    """
    query = sa.select(jobs.c.state, sa.func.count()).where(in_state(*states))
    return query.group_by(jobs.c.state)


def newest_events(names: Sequence[JobName]) -> Iterator[sa.Select[str, str, int]]:
    """Select the newest sequence of each of these jobs, in one query or several."""
    for start in range(0, len(names), _MOST_NAMES):
        of_tenants: defaultdict[str, list[str]] = defaultdict(list)
        for name in names[start : start + _MOST_NAMES]:
            of_tenants[name.tenant].append(name.job)
        # Of pairs in a list SQLite finds none by the key.
        asked = [
            sa.and_(jobs.c.tenant == tenant, jobs.c.job.in_(found))
            for tenant, found in of_tenants.items()
        ]
        yield sa.select(jobs.c.tenant, jobs.c.job, jobs.c.last_sequence).where(sa.or_(*asked))
