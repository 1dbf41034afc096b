"""The job store on SQLAlchemy Core: SQLite (embedded default) or PostgreSQL.

What callers do stands first; what only a lease holder may do goes through `_fenced`: it carries the
lease's epoch, appends the events that tell of the change, and fails with LeaseLost, changing
nothing, when the job has moved on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from tailorbird.errors import AlreadyExists, FailedPrecondition, LeaseLost
from tailorbird.names import AdapterName, JobName, TenantName
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.model import (
    ACTIVE,
    TERMINAL,
    EventPayload,
    Job,
    JobError,
    JobEvent,
    JobState,
    Progress,
    Published,
    StateChanged,
)
from trainer_svc.jobs.publication import Outcome, Publication
from trainer_svc.jobs.rows import (
    append_events,
    consequence,
    ended,
    insert_events,
    job_row,
    name_of,
    to_job,
    update_job,
    utc,
)
from trainer_svc.jobs.tables import events, jobs


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to change a job, until somebody takes a later epoch."""

    job: JobName
    epoch: int


class CancelRequested(FailedPrecondition):
    """The version cannot be committed: a caller has cancelled the job."""

    default_reason = "CANCEL_REQUESTED"


class JobStore:
    """Jobs and their events. `feed` wakes those who wait for a job to change."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._feed = feed

    async def create(self, job: Job, request_id: str, request_sha256: str) -> Job:
        """Store a new job, or return the one that the same request made before.

        AlreadyExists if the request id came with another request, or the name is taken.
        """
        row = {
            "tenant": job.name.tenant,
            "job": job.name.job,
            "request_id": request_id or None,
            "request_sha256": request_sha256,
            "spec": job.spec.model_dump(mode="json"),
            "adapter": job.spec.adapter,
            "state": job.state,
            "create_time": job.create_time,
            "cancel_requested": False,
            "lease_epoch": 0,
            "version": "",
            "promoted": False,
            "promotion_refusal": "",
            "last_sequence": 1,
        }
        try:
            async with self._database.write() as connection:
                await connection.execute(sa.insert(jobs).values(row))
                await insert_events(connection, job.name, 0, [StateChanged(state=job.state)])
        except IntegrityError:
            if request_id and (
                made := await self.find_request(job.name.tenant, request_id, request_sha256)
            ):
                return made
            raise AlreadyExists(f"{job.name} exists", reason="JOB_EXISTS", name=job.name) from None
        return job

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
    ) -> list[Job]:
        """Return up to `limit` jobs, newest first, that come after the (create_time, job) given."""
        query = sa.select(jobs).where(jobs.c.tenant == tenant.tenant)
        if after is not None:
            older = sa.tuple_(jobs.c.create_time, jobs.c.job) < sa.tuple_(
                sa.literal(after[0], sa.DateTime(timezone=True)), sa.literal(after[1])
            )
            query = query.where(older)
        if state is not None:
            query = query.where(jobs.c.state == state)
        if adapter is not None:
            query = query.where(jobs.c.adapter == str(adapter))
        query = query.order_by(jobs.c.create_time.desc(), jobs.c.job.desc()).limit(limit)
        async with self._database.read() as connection:
            return [to_job(row) for row in await connection.execute(query)]

    async def events(self, name: JobName, after_sequence: int, limit: int) -> list[JobEvent]:
        """Return up to `limit` events after a sequence, in order."""
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

    async def counts(self) -> dict[JobState, int]:
        """Return how many jobs are in each state that is not terminal."""
        query = sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)
        async with self._database.read() as connection:
            found = {JobState(state): count for state, count in await connection.execute(query)}
        return {state: found.get(state, 0) for state in JobState if state not in TERMINAL}

    async def request_cancel(self, name: JobName) -> Job:
        """Ask for a job to be stopped; one that no worker has is CANCELLED at once.

        FailedPrecondition if it has ended otherwise, or its version is committed.
        """
        async with self._database.write() as connection:
            row = await job_row(connection, name, lock=True)
            state = JobState(row.state)
            if state is JobState.CANCELLED:
                return to_job(row)
            if state in TERMINAL or row.publication is not None:
                detail = f"it is {state}" if state in TERMINAL else "its version is committed"
                raise FailedPrecondition(
                    f"{name} cannot be cancelled: {detail}", reason="JOB_NOT_CANCELLABLE"
                )
            values: dict[str, Any] = {"cancel_requested": True}
            if state is JobState.QUEUED:
                values |= ended(JobState.CANCELLED)
                await append_events(connection, row, [StateChanged(state=JobState.CANCELLED)])
            await connection.execute(update_job(name).values(values))
            job = to_job(await job_row(connection, name))
        self._feed.publish(name)
        return job

    async def requeue_lost(self) -> int:
        """Put every active job back into the queue; return how many.

        Only for a holder that knows that no other lives: a starting trainer with its data locked.
        """
        async with self._database.write() as connection:
            rows = (
                await connection.execute(
                    sa.select(jobs).where(jobs.c.state.in_(ACTIVE), jobs.c.publication.is_(None))
                )
            ).all()
            for row in rows:
                await _give_back(connection, row)
        return len(rows)

    async def claim(self, owner: str) -> tuple[Lease, Job] | None:
        """Lease the oldest queued job under its next epoch, or return None."""
        async with self._database.write() as connection:
            query = (
                sa.select(jobs)
                .where(jobs.c.state == JobState.QUEUED)
                .order_by(jobs.c.create_time, jobs.c.job)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None
            name = name_of(row)
            await append_events(connection, row, [StateChanged(state=JobState.PREPARING)])
            values = {
                "state": JobState.PREPARING,
                "lease_owner": owner,
                "lease_epoch": row.lease_epoch + 1,
                "start_time": utc(row.start_time) or datetime.now(UTC),
            }
            await connection.execute(update_job(name).values(values))
            job = to_job(await job_row(connection, name))
        self._feed.publish(name)
        return Lease(name, job.lease_epoch), job

    async def claim_publications(self, owner: str) -> list[tuple[Lease, Publication]]:
        """Lease every job whose version is committed but not known to be published."""
        claimed = []
        async with self._database.write() as connection:
            query = sa.select(jobs).where(
                jobs.c.state == JobState.PUBLISHING, jobs.c.publication.is_not(None)
            )
            for row in (await connection.execute(query)).all():
                epoch = row.lease_epoch + 1
                values = {"lease_owner": owner, "lease_epoch": epoch}
                await connection.execute(update_job(name_of(row)).values(values))
                publication = Publication.model_validate(row.publication)
                claimed.append((Lease(name_of(row), epoch), publication))
        return claimed

    async def record(self, lease: Lease, *payloads: EventPayload) -> None:
        """Append events, and what follows from them for the job itself."""
        async with self._fenced(lease, payloads) as (connection, row):
            values: dict[str, Any] = {}
            progress = Progress.model_validate(row.progress or {})
            for payload in payloads:
                progress, changes = consequence(progress, payload)
                values |= changes
            if progress != Progress():
                values["progress"] = progress.model_dump(mode="json")
            if values:
                await connection.execute(update_job(lease.job).values(values))

    async def allocate_version(self, lease: Lease, version: str) -> str:
        """Store the version id before its first upload; return an earlier epoch's, or ""."""
        publishing = StateChanged(state=JobState.PUBLISHING)
        async with self._fenced(lease, [publishing]) as (connection, row):
            values = {"allocated_version": version, "state": JobState.PUBLISHING}
            await connection.execute(update_job(lease.job).values(values))
            return row.allocated_version or ""

    async def commit(self, lease: Lease, publication: Publication) -> None:
        """Commit to publishing: after this the version will exist, whoever holds the job.

        CancelRequested if a caller was faster; the job stays as it was.
        """
        async with self._fenced(lease, []) as (connection, row):
            if row.cancel_requested:
                raise CancelRequested(f"{lease.job} was cancelled before its version was committed")
            values = {"publication": publication.model_dump(mode="json")}
            await connection.execute(update_job(lease.job).values(values))

    async def succeed(self, lease: Lease, publication: Publication, outcome: Outcome) -> None:
        """End the job: its version is published."""
        version = publication.manifest.version
        published = Published(
            version=version,
            promoted=outcome.promoted,
            route_generation=outcome.route_generation,
        )
        done = StateChanged(state=JobState.SUCCEEDED)
        async with self._fenced(lease, [published, done]) as (connection, _):
            values = ended(JobState.SUCCEEDED) | {
                "version": version,
                "promoted": outcome.promoted,
                "promotion_refusal": outcome.refusal,
            }
            await connection.execute(update_job(lease.job).values(values))

    async def fail(self, lease: Lease, error: JobError) -> None:
        """End the job: it cannot go on."""
        failed = StateChanged(state=JobState.FAILED, error=error)
        async with self._fenced(lease, [failed]) as (connection, _):
            values = ended(JobState.FAILED) | {"error": error.model_dump(mode="json")}
            await connection.execute(update_job(lease.job).values(values))

    async def cancelled(self, lease: Lease) -> None:
        """End the job: its worker has let go after a caller cancelled it."""
        async with self._fenced(lease, [StateChanged(state=JobState.CANCELLED)]) as (connection, _):
            await connection.execute(update_job(lease.job).values(ended(JobState.CANCELLED)))

    async def release(self, lease: Lease) -> None:
        """Give the job back to the queue; one that a caller has cancelled ends."""
        async with self._fenced(lease, []) as (connection, row):
            await _give_back(connection, row)

    @asynccontextmanager
    async def _fenced(
        self, lease: Lease, payloads: Sequence[EventPayload]
    ) -> AsyncIterator[tuple[AsyncConnection, sa.Row[Any]]]:
        async with self._database.write() as connection:
            row = await job_row(connection, lease.job, lock=True)
            if row.lease_epoch != lease.epoch or JobState(row.state) not in ACTIVE:
                raise LeaseLost(
                    f"{lease.job} is {row.state} under epoch {row.lease_epoch}, not {lease.epoch}"
                )
            await append_events(connection, row, payloads)
            yield connection, row
        self._feed.publish(lease.job)


async def _give_back(connection: AsyncConnection, row: sa.Row[Any]) -> None:
    if row.cancel_requested:
        values = ended(JobState.CANCELLED)
    else:
        values = {"state": JobState.QUEUED, "lease_owner": None}
    await append_events(connection, row, [StateChanged(state=values["state"])])
    await connection.execute(update_job(name_of(row)).values(values))
