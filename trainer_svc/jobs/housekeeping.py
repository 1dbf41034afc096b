"""What housekeeping asks the job store, and the rows that it deletes there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from tailorbird.names import JobName, TenantName
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.deletion import check_ended
from trainer_svc.jobs.model import TERMINAL, JobState
from trainer_svc.jobs.rows import job_row
from trainer_svc.jobs.tables import events, jobs

_NAMES_A_QUERY = 500


@dataclass(frozen=True, slots=True)
class Standing:
    """What the job store says of a job's leavings.

    `ended`: nobody goes on with it. `version` is the id of the version that it has published, or
    may still publish; "" if there is none.
    """

    ended: bool
    version: str


async def store_time(database: Database) -> datetime:
    """Return the time by the database's clock, which does not depend on who asks."""
    async with database.read() as connection:
        if connection.dialect.name == "sqlite":
            # As text, its time has no zone.
            text = await connection.scalar(sa.select(sa.func.datetime("now")))
            return datetime.fromisoformat(str(text)).replace(tzinfo=UTC)
        found: datetime = (await connection.execute(sa.select(sa.func.now()))).scalar_one()
        return found.astimezone(UTC)


async def standings(
    database: Database, tenant: TenantName, ids: Sequence[str]
) -> dict[str, Standing]:
    """Return how the tenant's jobs with these ids stand; what is unknown is left out."""
    found: dict[str, Standing] = {}
    columns = jobs.c.job, jobs.c.state, jobs.c.allocated_version, jobs.c.version
    async with database.read() as connection:
        for at in range(0, len(ids), _NAMES_A_QUERY):
            query = sa.select(*columns).where(
                jobs.c.tenant == tenant.tenant, jobs.c.job.in_(ids[at : at + _NAMES_A_QUERY])
            )
            for row in await connection.execute(query):
                # A state of a later release is none that has ended.
                ended = JobState(row.state) in TERMINAL
                version = row.version.rpartition("/")[2]
                found[row.job] = Standing(ended, version if ended else row.allocated_version or "")
    return found


async def tenants_of(database: Database) -> list[str]:
    """Return the tenants that have jobs, sorted."""
    query = sa.select(jobs.c.tenant).distinct().order_by(jobs.c.tenant)
    async with database.read() as connection:
        return list((await connection.execute(query)).scalars())


async def open_jobs(database: Database, tenant: TenantName) -> list[JobName]:
    """Return the tenant's jobs that have not ended, by id."""
    query = (
        sa.select(jobs.c.tenant, jobs.c.job)
        .where(jobs.c.tenant == tenant.tenant, _open())
        .order_by(jobs.c.job)
    )
    async with database.read() as connection:
        return [JobName(row.tenant, row.job) for row in await connection.execute(query)]


async def ended_jobs(
    database: Database, tenant: TenantName, before: datetime | None, limit: int, after: str = ""
) -> list[JobName]:
    """Return up to `limit` of the tenant's jobs that ended before a time, or at all.

    By id, those whose id comes after `after`.
    """
    query = sa.select(jobs.c.tenant, jobs.c.job).where(
        jobs.c.tenant == tenant.tenant, jobs.c.job > after, ~_open()
    )
    if before is not None:
        query = query.where(jobs.c.end_time < before)
    async with database.read() as connection:
        found = await connection.execute(query.order_by(jobs.c.job).limit(limit))
        return [JobName(row.tenant, row.job) for row in found]


async def count_rows(database: Database, name: JobName) -> int:
    """Return how many rows a job has: its own, and one for each event."""
    count = (
        sa.select(sa.func.count())
        .select_from(events)
        .where(events.c.tenant == name.tenant, events.c.job == name.job)
    )
    async with database.read() as connection:
        return 1 + int((await connection.execute(count)).scalar_one())


async def delete_job(database: Database, name: JobName) -> int:
    """Delete a job that has ended, and its events; return how many rows that were.

    Raises NotFound, and FailedPrecondition (JOB_NOT_DELETABLE) while the job has not ended.
    """
    async with database.write() as connection:
        row = await job_row(connection, name, lock=True)
        check_ended(name, JobState(row.state))
        deleted = await connection.execute(_of(events, name))
        await connection.execute(_of(jobs, name))
        return 1 + deleted.rowcount


def _of(table: sa.Table, name: JobName) -> sa.Delete:
    return sa.delete(table).where(table.c.tenant == name.tenant, table.c.job == name.job)


def _open() -> sa.ColumnElement[bool]:
    return jobs.c.state.not_in([state.value for state in TERMINAL])
