"""What is read of jobs, by whomever."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from tailorbird.errors import AlreadyExists
from tailorbird.names import AdapterName, DatasetName, JobName, SweepName, TenantName
from trainer_svc.jobs.database import Database, clock
from trainer_svc.jobs.dataset_users import users_of
from trainer_svc.jobs.events import JobEvent
from trainer_svc.jobs.listing import counts_of, newest_events, newest_first
from trainer_svc.jobs.model import ACTIVE, WAITING, Job, JobState
from trainer_svc.jobs.rows import job_row, to_job, utc
from trainer_svc.jobs.tables import events, jobs


class JobReads:
    """Jobs and their events as the store has them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_request(self, tenant: str, request_id: str, request_sha256: str) -> Job | None:
        """Return the job that a request made before, or None.

        AlreadyExists if the request id came with another request.
        """
        query = sa.select(jobs).where(jobs.c.tenant == tenant, jobs.c.request_id == request_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is not None and row.request_sha256 != request_sha256:
            raise AlreadyExists(
                f"request_id {request_id!r} came before with another request",
                reason="REQUEST_ID_REUSED",
                request_id=request_id,
            )
        return None if row is None else to_job(row)

    async def get(self, name: JobName) -> Job:
        """Return a job; NotFound if there is none."""
        async with self._database.read() as connection:
            return to_job(await job_row(connection, name))

    async def page(
        self,
        tenant: TenantName,
        *,
        limit: int,
        after: tuple[datetime, str] | None = None,
        state: JobState | None = None,
        adapter: AdapterName | None = None,
        sweeps: bool = False,
    ) -> list[Job]:
        """Return up to `limit` jobs, newest first, that come after the (create_time, job) given.

        `sweeps`: only those that carry one out.
        """
        async with self._database.read() as connection:
            return await newest_first(
                connection, tenant, limit, after, state, adapter, sweeps=sweeps
            )

    async def users(self, dataset: DatasetName, limit: int) -> list[JobName | SweepName]:
        """Return up to `limit` jobs and sweeps that have not ended and need a dataset."""
        async with self._database.read() as connection:
            return [
                (SweepName if row.is_sweep else JobName)(row.tenant, row.job)
                for row in await connection.execute(users_of(dataset).limit(limit))
            ]

    async def events(self, name: JobName, after_sequence: int, limit: int) -> list[JobEvent]:
        """Return up to `limit` events after a sequence, in order; a later release's as Unknown."""
        query = (
            sa.select(events)
            .where(events.c.tenant == name.tenant, events.c.job == name.job)
            .where(events.c.sequence > after_sequence)
            .order_by(events.c.sequence)
            .limit(limit)
        )
        async with self._database.read() as connection:
            return [
                JobEvent.model_validate(
                    {"sequence": row.sequence, "time": utc(row.time), "payload": row.payload}
                )
                for row in await connection.execute(query)
            ]

    async def last_sequence(self, name: JobName) -> int:
        """Return the newest event's sequence; NotFound if there is no such job."""
        async with self._database.read() as connection:
            return int((await job_row(connection, name)).last_sequence)

    async def last_sequences(self, names: Sequence[JobName]) -> dict[JobName, int]:
        """Return the newest event's sequence of each of these jobs that there is."""
        async with self._database.read() as connection:
            return {
                JobName(tenant, job): last
                for query in newest_events(names)
                for tenant, job, last in await connection.execute(query)
            }

    async def counts(self) -> dict[JobState, int]:
        """Return how many jobs are in each state that is not terminal."""
        counted = dict.fromkeys(WAITING | ACTIVE, 0)
        async with self._database.read() as connection:
            for state, count in await connection.execute(counts_of(counted)):
                counted[JobState(state)] += count
        return counted

    async def time(self) -> datetime:
        """Return the time by the database's clock."""
        async with self._database.read() as connection:
            return await clock(connection)
