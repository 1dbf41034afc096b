"""The job store on SQLAlchemy Core: SQLite (embedded default) or PostgreSQL.

What callers do stands first; what only a lease holder may do goes through `_held`: see `fence.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import aclosing
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from tailorbird.errors import AlreadyExists
from tailorbird.names import JobName
from trainer_svc.jobs import leases, requests
from trainer_svc.jobs.database import Database, clock, take_turn
from trainer_svc.jobs.events import EventPayload, JobWarning, Published, StateChanged
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.fence import (
    CancelRequested,
    GivenBack,
    Lease,
    Write,
    uncommitted,
    write_held,
)
from trainer_svc.jobs.housekeeping import delete_job
from trainer_svc.jobs.leases import Kept
from trainer_svc.jobs.limits import TenantLimits
from trainer_svc.jobs.model import Faults, Job, JobError, JobState, Left
from trainer_svc.jobs.notices import notify
from trainer_svc.jobs.publication import Outcome, Publication, readable_publication
from trainer_svc.jobs.queue import at_work, count_queued, queued
from trainer_svc.jobs.reads import JobReads
from trainer_svc.jobs.rows import (
    Change,
    Decide,
    apply,
    begun,
    consequences,
    ended,
    insert_events,
    job_row,
    left_by,
    lock_queued,
    name_of,
    to_job,
    update_job,
)
from trainer_svc.jobs.tables import jobs

_log = structlog.get_logger(__name__)

_MOST_AT_ONCE = 100
"""Leases that are taken over, or publications claimed, in one transaction."""
_UNREADABLE_SECONDS = 300.0
_AS_IT_IS = GivenBack()
_NO_LIMITS = TenantLimits()


class JobStore(JobReads):
    """Jobs and their events. `feed` wakes those who wait for a job to change.

    A lease that is not kept for `lease_seconds` is over.
    """

    def __init__(
        self,
        database: Database,
        feed: Feed,
        *,
        lease_seconds: float = 30.0,
        limits: TenantLimits = _NO_LIMITS,
    ) -> None:
        super().__init__(database)
        self._feed = feed
        self.lease_seconds = lease_seconds
        self._limits = limits

    async def create(
        self, job: Job, request_id: str, request_sha256: str, warnings: Sequence[JobWarning] = ()
    ) -> Job:
        """Store a new job, or return the one that the same request made before.

        A new job's history begins with its state and these warnings. AlreadyExists if the request
        id came with another request, or the name is taken; ResourceExhausted if too many wait.
        """
        first: list[EventPayload] = [StateChanged(state=job.state), *warnings]
        values = begun(job, request_id, request_sha256, len(first))
        try:
            async with self._database.write() as connection:
                await connection.execute(sa.insert(jobs).values(values))
                await self._check_queued(connection, job.name.tenant)
                await insert_events(connection, job.name, 0, first, await clock(connection))
                await notify(connection, job.name, job.state)
        except IntegrityError:
            if request_id and (
                made := await self.find_request(job.name.tenant, request_id, request_sha256)
            ):
                return made
            raise AlreadyExists(f"{job.name} exists", reason="JOB_EXISTS", name=job.name) from None
        return job

    async def check_queued(self, tenant: str) -> None:
        """Raise ResourceExhausted if one more job of the tenant would be too many that wait."""
        if not math.isinf(self._limits.most_queued(tenant)):
            async with self._database.read() as connection:
                queued = await count_queued(connection, tenant)
            self._limits.check_queued(tenant, queued + 1)

    async def _check_queued(self, connection: AsyncConnection, tenant: str) -> None:
        if not math.isinf(self._limits.most_queued(tenant)):
            await take_turn(connection, tenant)
            self._limits.check_queued(tenant, await count_queued(connection, tenant))

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

        FailedPrecondition if it has ended; ResourceExhausted if too many wait.
        """
        return (await self._ask(name, requests.resume))[1]

    async def _ask(self, name: JobName, decide: Decide) -> tuple[sa.Row[Any], Job]:
        async with self._database.write() as connection:
            row = await job_row(connection, name, lock=True)
            payloads, values = decide(row)
            await apply(connection, row, payloads, values)
            if values.get("state") is JobState.QUEUED:
                await self._check_queued(connection, name.tenant)
            job = to_job(await job_row(connection, name))
        self._feed.publish(name)
        return row, job

    async def claim(
        self,
        owner: str,
        fits: Callable[[Job], bool] = lambda _: True,
        *,
        avoid: Collection[JobName] = (),
        passed: Collection[tuple[str, str]] = (),
    ) -> tuple[Lease, Job] | None:
        """Lease the first queued job that fits, under its next epoch, or return None.

        `fits` is asked for each job in the order of the queue, until it says yes. Of the bases in
        `passed`, given by name and digest, no more jobs need be asked about; `fits` may add to it.
        """
        async with self._database.write() as connection:
            running = await at_work(connection)
            full = {
                tenant
                for tenant, count in running.items()
                if count >= self._limits.most_running(tenant)
            }
            async with aclosing(queued(connection, running, full, avoid, passed)) as waiting:
                async for found in waiting:
                    if fits(found) and (row := await self._room_for(connection, found.name)):
                        break
                else:
                    return None
            await apply(
                connection,
                row,
                [StateChanged(state=JobState.PREPARING)],
                self._leased(row, owner)
                | {
                    "state": JobState.PREPARING,
                    "start_time": found.start_time or await clock(connection),
                },
            )
            job = to_job(await job_row(connection, found.name))
        self._feed.publish(job.name)
        return Lease(job.name, job.lease_epoch), job

    async def _room_for(self, connection: AsyncConnection, name: JobName) -> sa.Row[Any] | None:
        """Lock a queued job; None if another has it by now, or its tenant has enough at work."""
        row = await lock_queued(connection, name)
        most = self._limits.most_running(name.tenant)
        if row is None or math.isinf(most):
            return row
        # Of two trainers that look at the same time, one sees what the other has claimed.
        await take_turn(connection, name.tenant)
        return row if (await at_work(connection))[name.tenant] < most else None

    def _leased(self, row: sa.Row[Any], owner: str) -> dict[str, Any]:
        return {
            "lease_owner": owner,
            "lease_epoch": row.lease_epoch + 1,
            "lease_expires": self._database.later(self.lease_seconds),
            "lease_write": 0,
            "not_before": None,
        }

    async def claim_publications(
        self, owner: str, avoid: Collection[JobName] = ()
    ) -> list[tuple[Lease, Publication]]:
        """Lease some of the jobs whose version is committed and that nobody publishes.

        None of those to `avoid`. What this release cannot read is left to a later one.
        """
        claimed = []
        async with self._database.write() as connection:
            for row in await leases.to_publish(connection, _MOST_AT_ONCE, avoid):
                found = readable_publication(name_of(row), row.publication)
                if found is None:
                    values = {"not_before": self._database.later(_UNREADABLE_SECONDS)}
                else:
                    values = self._leased(row, owner)
                    claimed.append((Lease(name_of(row), row.lease_epoch + 1), found))
                await connection.execute(update_job(name_of(row)).values(values))
        return claimed

    async def keep_leases(self, owner: str) -> dict[JobName, Kept]:
        """Let the leases of `owner` last for another while; return them."""
        async with self._database.write() as connection:
            return await leases.keep(connection, owner, self.lease_seconds)

    async def take_back(self, owners: str, held: Collection[JobName] = ()) -> list[Left]:
        """Put the jobs of holders that are known to be gone back into the queue.

        Those are all whose name begins with `owners`, but for the jobs `held`. Returns what those
        left that ended because a caller had cancelled them.
        """
        async with self._database.write() as connection:
            rows = await leases.left_over(connection, owners, held)
            await _let_go_all(connection, rows)
        return self._let_go_of(rows)

    async def take_over(self) -> list[Left]:
        """Put jobs back into the queue whose lease is over; returns what `take_back` does."""
        async with self._database.write() as connection:
            rows = await leases.expired(connection, _MOST_AT_ONCE)
            await _let_go_all(connection, rows)
        return self._let_go_of(rows)

    def _let_go_of(self, rows: Sequence[sa.Row[Any]]) -> list[Left]:
        for row in rows:
            self._feed.publish(name_of(row))
        return [left_by(row) for row in rows if row.cancel_requested and row.publication is None]

    async def record(self, write: Write, *payloads: EventPayload) -> None:
        """Append events, and what follows from them for the job itself."""
        await self._held(write, lambda row: (payloads, consequences(row, payloads)))

    async def allocate_version(self, write: Write, version: str) -> str:
        """Store the version id before its first upload; return an earlier epoch's, or ""."""
        publishing = StateChanged(state=JobState.PUBLISHING)
        values = {"allocated_version": version, "state": JobState.PUBLISHING}
        row = await self._held(write, lambda _: ([publishing], values))
        earlier = row.allocated_version or ""
        # An earlier try may have stored it, and only its answer was lost.
        return "" if earlier == version else earlier

    async def commit(self, write: Write, publication: Publication) -> None:
        """Commit to publishing: after this the version will exist, whoever holds the job.

        CancelRequested if a caller was faster; the job stays as it was.
        """

        def decide(row: sa.Row[Any]) -> Change:
            if row.cancel_requested:
                raise CancelRequested(f"{write.job} was cancelled before its version was committed")
            return [], {"publication": publication.model_dump(mode="json")}

        await self._held(write, decide)

    async def succeed(self, write: Write, publication: Publication, outcome: Outcome) -> None:
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
        await self._held(write, lambda _: ([published, done], values))

    async def put_off(
        self, write: Write, pause_of: Callable[[int], float], warning: JobWarning
    ) -> None:
        """Let a publication wait that cannot be finished now; of the first time, callers hear.

        `pause_of`: seconds to wait after so many times.
        """

        def decide(row: sa.Row[Any]) -> Change:
            before = Faults.model_validate(row.faults or {}).publications
            values = {
                "lease_owner": None,
                "lease_expires": None,
                "not_before": self._database.later(pause_of(before + 1)),
                "faults": {**(row.faults or {}), "publications": before + 1},
            }
            return [] if before else [warning], values

        await self._held(write, decide)

    async def fail(self, write: Write, error: JobError) -> Left:
        """End the job: it cannot go on. FailedPrecondition if its version is committed."""
        failed = StateChanged(state=JobState.FAILED, error=error)
        values = ended(JobState.FAILED) | {"error": error.model_dump(mode="json")}
        return left_by(await self._held(write, uncommitted(lambda _: ([failed], values))))

    async def cancelled(self, write: Write) -> Left:
        """End the job: its worker has let go after a caller cancelled it."""
        change: Change = [StateChanged(state=JobState.CANCELLED)], ended(JobState.CANCELLED)
        return left_by(await self._held(write, uncommitted(lambda _: change)))

    async def release(self, write: Write, given: GivenBack = _AS_IT_IS) -> Left | None:
        """Give the job back: to the queue, or to its callers.

        One that a caller has cancelled ends; what it left is returned. It is PAUSED if a caller
        asked for that, or because of an error that somebody must mend first.
        """
        not_before = self._database.later(given.pause) if given.pause else None
        row = await self._held(
            write, uncommitted(lambda row: leases.give_back(row, given, not_before))
        )
        return left_by(row) if row.cancel_requested else None

    async def _held(self, write: Write, decide: Decide) -> sa.Row[Any]:
        try:
            return await write_held(self._database, write, decide)
        finally:
            # What failed may have been done all the same.
            self._feed.publish(write.job)

    async def delete(self, name: JobName) -> None:
        """Delete a job that has ended, with its history; FailedPrecondition before, NotFound."""
        await delete_job(self._database, name)
        self._feed.publish(name)


async def _let_go_all(connection: AsyncConnection, rows: Sequence[sa.Row[Any]]) -> None:
    for row in rows:
        _log.warning("lease is over", job=str(name_of(row)), owner=row.lease_owner)
        await leases.let_go(connection, row)
