"""The job store on SQLAlchemy Core: SQLite (embedded default) or PostgreSQL.

What callers do stands first; what only a lease holder may do goes through `_held`: see `fence.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tailorbird.errors import AlreadyExists
from tailorbird.names import AdapterName, DatasetName, JobName, SweepName, TenantName
from trainer_svc.jobs import requests
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.dataset_users import users_of
from trainer_svc.jobs.events import EventPayload, JobEvent, JobWarning, Published, StateChanged
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.fence import (
    CancelRequested,
    Lease,
    give_back,
    uncommitted,
    write_held,
)
from trainer_svc.jobs.listing import counts_of, newest_events, newest_first
from trainer_svc.jobs.model import ACTIVE, WAITING, Job, JobError, JobState, Left
from trainer_svc.jobs.publication import Outcome, Publication, readable_publication
from trainer_svc.jobs.queue import queued
from trainer_svc.jobs.rows import (
    Change,
    Decide,
    apply,
    begun,
    consequences,
    ended,
    in_state,
    insert_events,
    job_row,
    left_by,
    lock_queued,
    name_of,
    narrowed,
    to_job,
    update_job,
    utc,
)
from trainer_svc.jobs.tables import events, jobs


class JobStore:
    """Jobs and their events. `feed` wakes those who wait for a job to change."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._feed = feed

    async def create(
        self, job: Job, request_id: str, request_sha256: str, warnings: Sequence[JobWarning] = ()
    ) -> Job:
        """Store a new job, or return the one that the same request made before.

        A new job's history begins with its state and these warnings. AlreadyExists if the request
        id came with another request, or the name is taken.
        """
        first: list[EventPayload] = [StateChanged(state=job.state), *warnings]
        values = begun(job, request_id, request_sha256, len(first))
        try:
            async with self._database.write() as connection:
                await connection.execute(sa.insert(jobs).values(values))
                await insert_events(connection, job.name, 0, first)
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

    async def request_cancel(self, name: JobName) -> tuple[Job, Left | None]:
        """Ask for a job to be stopped; one that no worker has is CANCELLED at once.

        Returns the job, and what it left if this ended it. FailedPrecondition if it has ended
        otherwise, or its version is committed.
        """
        row, job = await self._ask(name, requests.cancel)
        cancelled = job.state is JobState.CANCELLED and row.state != JobState.CANCELLED
        return job, left_by(row) if cancelled else None

    async def request_pause(self, name: JobName) -> Job:
        """Ask for a job to be held back; one that no worker has is PAUSED at once.

        FailedPrecondition if it has ended, is to be cancelled, or its version is committed.
        """
        return (await self._ask(name, requests.pause))[1]

    async def request_resume(self, name: JobName) -> Job:
        """Put a paused job back into the queue, or take back a pause that no worker has heeded.

        FailedPrecondition if it has ended.
        """
        return (await self._ask(name, requests.resume))[1]

    async def _ask(self, name: JobName, decide: Decide) -> tuple[sa.Row[Any], Job]:
        async with self._database.write() as connection:
            row = await job_row(connection, name, lock=True)
            payloads, values = decide(row)
            await apply(connection, row, payloads, values)
            job = to_job(await job_row(connection, name))
        self._feed.publish(name)
        return row, job

    async def requeue_lost(
        self, owner: str | None = None, held: Collection[JobName] = ()
    ) -> tuple[int, list[Left]]:
        """Put every active job back into the queue but those `held`.

        Returns how many, and what those left that ended because a caller had cancelled them.
        `owner`: only leases of this owner, which knows what it holds. None: of all, for a holder
        that knows that no other lives: a starting trainer with its data locked.
        """
        async with self._database.write() as connection:
            query = sa.select(jobs).where(in_state(*ACTIVE), jobs.c.publication.is_(None))
            rows = (await connection.execute(narrowed(query, owner, held))).all()
            for row in rows:
                await apply(connection, row, *give_back(row))
        for row in rows:
            self._feed.publish(name_of(row))
        return len(rows), [left_by(row) for row in rows if row.cancel_requested]

    async def claim(
        self,
        owner: str,
        fits: Callable[[Job], bool] = lambda _: True,
        *,
        avoid: Collection[JobName] = (),
        passed: Collection[tuple[str, str]] = (),
    ) -> tuple[Lease, Job] | None:
        """Lease the oldest queued job that fits, under its next epoch, or return None.

        `fits` is asked for each job in the order of the queue, until it says yes. Of the bases in
        `passed`, given by name and digest, no more jobs need be asked about; `fits` may add to it.
        """
        async with (
            self._database.write() as connection,
            aclosing(queued(connection, avoid, passed)) as waiting,
        ):
            async for found in waiting:
                if not fits(found) or (row := await lock_queued(connection, found.name)) is None:
                    continue
                values = {
                    "state": JobState.PREPARING,
                    "lease_owner": owner,
                    "lease_epoch": row.lease_epoch + 1,
                    "start_time": found.start_time or datetime.now(UTC),
                }
                await apply(connection, row, [StateChanged(state=JobState.PREPARING)], values)
                job = to_job(await job_row(connection, found.name))
                break
            else:
                return None
        self._feed.publish(job.name)
        return Lease(job.name, job.lease_epoch, row.last_sequence + 1), job

    async def claim_publications(
        self, owner: str, former: str | None = None, held: Collection[JobName] = ()
    ) -> list[tuple[Lease, Publication]]:
        """Lease every job whose version is committed but not known to be published.

        `former` and `held` are `owner` and `held` of `requeue_lost`. What this release cannot read
        is left to a later one.
        """
        claimed = []
        async with self._database.write() as connection:
            query = sa.select(jobs).where(
                in_state(JobState.PUBLISHING), jobs.c.publication.is_not(None)
            )
            for row in (await connection.execute(narrowed(query, former, held))).all():
                found = readable_publication(name_of(row), row.publication)
                if found is None:
                    continue
                lease = Lease(name_of(row), row.lease_epoch + 1, row.last_sequence)
                values = {"lease_owner": owner, "lease_epoch": lease.epoch}
                await connection.execute(update_job(lease.job).values(values))
                claimed.append((lease, found))
        return claimed

    async def record(self, lease: Lease, *payloads: EventPayload) -> None:
        """Append events, and what follows from them for the job itself."""
        await self._held(lease, lambda row: (payloads, consequences(row, payloads)))

    async def allocate_version(self, lease: Lease, version: str) -> str:
        """Store the version id before its first upload; return an earlier epoch's, or ""."""
        publishing = StateChanged(state=JobState.PUBLISHING)
        values = {"allocated_version": version, "state": JobState.PUBLISHING}
        row = await self._held(lease, lambda _: ([publishing], values))
        return (row and row.allocated_version) or ""

    async def commit(self, lease: Lease, publication: Publication) -> None:
        """Commit to publishing: after this the version will exist, whoever holds the job.

        CancelRequested if a caller was faster; the job stays as it was.
        """

        def decide(row: sa.Row[Any]) -> Change:
            if row.cancel_requested:
                raise CancelRequested(f"{lease.job} was cancelled before its version was committed")
            return [], {"publication": publication.model_dump(mode="json")}

        await self._held(lease, decide)

    async def succeed(self, lease: Lease, publication: Publication, outcome: Outcome) -> None:
        """End the job: its version is published."""
        version = publication.manifest.version
        published = Published(
            version=version,
            promoted=outcome.promoted,
            route_generation=outcome.route_generation,
            promotion_refusal=outcome.refusal,
        )
        values = ended(JobState.SUCCEEDED) | {
            "version": version,
            "promoted": outcome.promoted,
            "promotion_refusal": outcome.refusal,
        }
        done = StateChanged(state=JobState.SUCCEEDED)
        await self._held(lease, lambda _: ([published, done], values))

    async def fail(self, lease: Lease, error: JobError) -> Left:
        """End the job: it cannot go on. FailedPrecondition if its version is committed."""
        failed = StateChanged(state=JobState.FAILED, error=error)
        values = ended(JobState.FAILED) | {"error": error.model_dump(mode="json")}
        return left_by(await self._let_go(lease, lambda _: ([failed], values)))

    async def cancelled(self, lease: Lease) -> Left:
        """End the job: its worker has let go after a caller cancelled it."""
        change: Change = [StateChanged(state=JobState.CANCELLED)], ended(JobState.CANCELLED)
        return left_by(await self._let_go(lease, lambda _: change))

    async def release(self, lease: Lease, error: JobError | None = None) -> Left | None:
        """Give the job back: to the queue, or to its callers.

        One that a caller has cancelled ends; what it left is returned. It is PAUSED if a caller
        asked for that, or because of `error`, which somebody must mend first.
        """
        row = await self._let_go(lease, lambda row: give_back(row, error))
        return left_by(row) if row.cancel_requested else None

    async def _let_go(self, lease: Lease, decide: Decide) -> sa.Row[Any]:
        """Make the last change of a lease that commits nothing; return the row it was made of."""
        # `_held` returns none where an earlier try has made the change.
        seen: list[sa.Row[Any]] = []

        def noted(row: sa.Row[Any]) -> Change:
            seen.append(row)
            return decide(row)

        await self._held(lease, uncommitted(noted))
        return seen[-1]

    async def _held(self, lease: Lease, decide: Decide) -> sa.Row[Any] | None:
        try:
            return await write_held(self._database, lease, decide)
        finally:
            # What failed may have been done all the same.
            self._feed.publish(lease.job)
