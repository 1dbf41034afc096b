"""One worker that is ready, and the leases it has."""

from __future__ import annotations

import asyncio
import time
from typing import NoReturn

import structlog

from trainer_svc.dispatch.executor import Worker, WorkerLost
from trainer_svc.dispatch.inbox import Inbox
from trainer_svc.jobs.events import StepProgress
from trainer_svc.protocol import LeaseKey, Ready, Report, Reported, Unusable

_log = structlog.get_logger(__name__)


class Place:
    """Takes each report of its worker to the lease that it is of. `base` is a digest."""

    def __init__(self, worker: Worker, base: str) -> None:
        self.worker = worker
        self.base = base
        self.alone = False
        """Whether the one lease here lets none join it."""
        self.proven = False
        """Whether a job has come to its end here."""
        self.taken = 0
        """Leases that were ever here."""
        self._jobs: set[str] = set()
        """Of these, up to two."""
        self.fresh = True
        """Whether it may have room yet for jobs that waited for it to get ready."""
        self.retired = asyncio.Event()
        """Set when it is to end although its worker is well."""
        self.idle_since = time.monotonic()
        self.memory = 0
        """Bytes that the worker takes, as it last said."""
        self.idle = asyncio.Event()
        self.idle.set()
        self._inboxes: dict[LeaseKey, Inbox] = {}
        self._slots: dict[LeaseKey, int] = {}
        self._lost: WorkerLost | None = None

    @property
    def count(self) -> int:
        """Adapters that are trained here: one for a job, several for a sweep."""
        return sum(self._slots.values())

    def take(self, lease: LeaseKey, *, alone: bool, slots: int = 1) -> Inbox:
        """Add a lease of so many adapters; if the worker is lost by now, its inbox says so."""
        inbox = self._inboxes[lease] = Inbox()
        self._slots[lease] = slots
        self.alone = alone
        self.taken += 1
        if len(self._jobs) < 2:
            self._jobs.add(lease.job)
        self.idle.clear()
        if self._lost is not None:
            inbox.close(self._lost.again())
        return inbox

    def shrink(self, lease: LeaseKey, slots: int) -> None:
        """Let a lease have so many adapters from now on, where it had more."""
        self._slots[lease] = min(self._slots[lease], slots)

    def leave(self, lease: LeaseKey) -> None:
        """Remove a lease: what the worker still says of it is dropped."""
        del self._inboxes[lease], self._slots[lease]
        if not self._inboxes:
            self.alone = False
            self.idle_since = time.monotonic()
            self.idle.set()

    async def read(self) -> NoReturn:
        """Take reports to their leases until the worker is lost; each lease hears of that last."""
        try:
            while True:
                report = await self.worker.receive()
                self._notice(report)
                if isinstance(report, Ready | Unusable):
                    _log.debug("a report of no lease", kind=report.kind)
                elif inbox := self._inboxes.get(report.lease):
                    inbox.put(report)
                else:
                    _log.debug("a report nobody waits for", kind=report.kind, lease=report.lease)
        except WorkerLost as error:
            self._lose(error)
            raise
        except Exception as error:
            lost = WorkerLost(f"the worker cannot be heard: {type(error).__name__}")
            self._lose(lost)
            raise lost from error

    def _notice(self, report: Report) -> None:
        if isinstance(report, Reported) and isinstance(report.event, StepProgress):
            self.memory = report.event.worker_memory_bytes or 0

    def _lose(self, error: WorkerLost) -> None:
        self._lost = error
        # What a worker printed may be of any job that it ever had.
        told = error.again(alone=len(self._jobs) == 1)
        for inbox in self._inboxes.values():
            inbox.close(told)
