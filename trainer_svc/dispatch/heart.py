"""Keeps the leases of this trainer, and takes over those of trainers that are gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import structlog

from tailorbird.errors import Unavailable
from tailorbird.names import JobName
from trainer_svc.dispatch.waiting import wait
from trainer_svc.jobs.leases import Kept
from trainer_svc.jobs.model import Left
from trainer_svc.jobs.store import JobStore

_log = structlog.get_logger(__name__)

_END_SECONDS = 2.0
_BEATS = 4
"""In the time that a lease lasts: so many answers of the job store may fail or be late."""


class Heeded(Protocol):
    """Whoever is to hear what has become of the leases."""

    def holders(self) -> Mapping[JobName, int]:
        """Return the epoch of each lease that somebody here works under."""

    async def kept(self, before: Mapping[JobName, int], kept: Mapping[JobName, Kept]) -> None:
        """Hear which leases were kept; `before`: what `holders` said when that was asked."""

    async def answers(self, *, well: bool) -> None:
        """Hear whether the job store answers as it should."""

    def taken_over(self, cancelled: list[Left]) -> None:
        """Hear that jobs of others may wait now, and which ended since they were cancelled."""


class Heart:
    """While the job store is away, nothing is taken over.

    Nor for the time of a lease afterwards: others could keep theirs as little as this one could.
    Nor after the start: it may have had to wait for the job store as well.
    """

    def __init__(
        self,
        jobs: JobStore,
        owner: str,
        heeded: Heeded,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jobs = jobs
        self._owner = owner
        self._heeded = heeded
        self._clock = clock
        self._steady_since = clock()
        self._next = asyncio.Event()
        self._ended = False

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Beat while the block runs."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._ended = True
            self._next.set()
            # A query that is cancelled may lose its connection; one that hangs is.
            await asyncio.wait({task}, timeout=_END_SECONDS)
            task.cancel()

    def hasten(self) -> None:
        """Beat now: something is asked of a job that is leased here, or its lease is taken."""
        self._next.set()

    async def _run(self) -> None:
        while not self._ended:
            self._next.clear()
            await self.beat()
            await wait(self._next, self._jobs.lease_seconds / _BEATS)

    async def beat(self) -> None:
        """Keep the leases once, and take over what is over."""
        before = dict(self._heeded.holders())
        well = False
        try:
            async with asyncio.timeout(self._jobs.lease_seconds / 2):
                kept = await self._jobs.keep_leases(self._owner)
            well = True
            await self._heeded.kept(before, kept)
            if self._clock() - self._steady_since >= self._jobs.lease_seconds:
                async with asyncio.timeout(self._jobs.lease_seconds / 2):
                    self._heeded.taken_over(await self._jobs.take_over())
        except (Unavailable, TimeoutError) as error:
            self._steady_since = self._clock()
            _log.warning("leases are not kept", error=str(error) or type(error).__name__)
        except Exception:
            # Whatever it is, those who hold leases go on, and the next beat tries again.
            _log.exception("leases are not kept")
        await self._heeded.answers(well=well)
