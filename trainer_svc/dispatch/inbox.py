"""What one lease has been sent and has not yet taken."""

from __future__ import annotations

import asyncio
from collections import deque

from tailorbird.errors import LeaseLost
from trainer_svc.dispatch.executor import WorkerLost
from trainer_svc.jobs.events import CheckpointSaved, Evaluation, StepProgress
from trainer_svc.protocol import Report, Reported
from trainer_svc.record import Record

_MANY = 100
# What a run reports again and again, what is missed least first.
_FIGURES = (StepProgress, CheckpointSaved, Evaluation)


class Inbox:
    """The reports of one lease, in order.

    While the job store is away they pile up here, so that the worker's other leases go on. Of many
    the oldest steps are dropped, then checkpoints and evaluations; of each the newest stays.
    """

    def __init__(self) -> None:
        self._reports: deque[Report] = deque()
        self._changed = asyncio.Event()
        self._end: WorkerLost | LeaseLost | None = None

    def put(self, report: Report) -> None:
        """Add a report."""
        self._reports.append(report)
        if len(self._reports) > _MANY:
            self._drop_one()
        self._changed.set()

    def _drop_one(self) -> None:
        for figure in _FIGURES:
            found = [at for at, report in enumerate(self._reports) if _has(report, figure)]
            if len(found) > 1:
                del self._reports[found[0]]
                return

    def close(self, error: WorkerLost | LeaseLost, *, at_once: bool = False) -> None:
        """Let nothing follow what has been put; `at_once`: nor that either. The first one stands.

        `error` is what `get` raises then.
        """
        self._end = self._end or error
        if at_once:
            self._reports.clear()
        self._changed.set()

    def check_open(self) -> None:
        """Raise what it was closed with, if nothing more will come."""
        if self._end is not None:
            if isinstance(self._end, WorkerLost):
                raise self._end.again() from self._end
            raise LeaseLost(self._end.message) from self._end

    async def get(self) -> Report:
        """Wait for the next report; raises what it was closed with if there will be none."""
        while not self._reports:
            self.check_open()
            self._changed.clear()
            await self._changed.wait()
        return self._reports.popleft()


def _has(report: Report, figure: type[Record]) -> bool:
    return isinstance(report, Reported) and isinstance(report.event, figure)
