"""What a lease's holder writes: each change once, asked for until the job store answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from trainer_svc.dispatch.backoff import insist
from trainer_svc.jobs.events import EventPayload, JobWarning
from trainer_svc.jobs.fence import GivenBack, Lease, Write
from trainer_svc.jobs.model import JobError, Left
from trainer_svc.jobs.publication import Outcome, Publication
from trainer_svc.jobs.store import JobStore

_T = TypeVar("_T")


class Holder:
    """The changes of one lease; each raises LeaseLost, and changes nothing, once it is over.

    See the methods of JobStore of the same names.
    """

    def __init__(self, jobs: JobStore, lease: Lease) -> None:
        self.lease = lease
        self._jobs = jobs

    async def record(self, *events: EventPayload) -> None:
        """Append events."""
        await self._made(lambda write: self._jobs.record(write, *events))

    async def allocate_version(self, version: str) -> str:
        """Store a version's id; return an earlier epoch's, or ""."""
        return await self._made(lambda write: self._jobs.allocate_version(write, version))

    async def commit(self, publication: Publication) -> None:
        """Commit to publishing; CancelRequested."""
        await self._made(lambda write: self._jobs.commit(write, publication))

    async def succeed(self, publication: Publication, outcome: Outcome) -> None:
        """End the job: its version is published."""
        await self._made(lambda write: self._jobs.succeed(write, publication, outcome))

    async def put_off(self, pause_of: Callable[[int], float], warning: JobWarning) -> None:
        """Let a publication wait that cannot be finished now."""
        await self._made(lambda write: self._jobs.put_off(write, pause_of, warning))

    async def fail(self, error: JobError) -> Left:
        """End the job: it cannot go on."""
        return await self._made(lambda write: self._jobs.fail(write, error))

    async def cancelled(self) -> Left:
        """End the job: a caller has cancelled it."""
        return await self._made(self._jobs.cancelled)

    async def release(self, given: GivenBack) -> Left | None:
        """Give the job back."""
        return await self._made(lambda write: self._jobs.release(write, given))

    async def _made(self, change: Callable[[Write], Awaitable[_T]]) -> _T:
        write = self.lease.write()
        return await insist(lambda: change(write))
