"""Doing again what failed only because something was down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from tailorbird.errors import Unavailable
from tailorbird.names import JobName

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")
_SECONDS = (0.2, 0.5, 1, 2, 4, 8, 15, 30)


def pause_after(attempts: int) -> float:
    """Return how many seconds to wait after so many attempts in a row that failed."""
    return _SECONDS[min(attempts, len(_SECONDS)) - 1]


async def insist(action: Callable[[], Awaitable[_T]]) -> _T:
    """Return what `action` gives, done again after growing pauses while it raises Unavailable.

    For what must be written sooner or later; the action must bear being done twice.
    """
    attempts = 0
    while True:
        try:
            return await action()
        except Unavailable as error:
            _log.warning("trying again", reason=error.reason, error=error.message)
            attempts += 1
            await asyncio.sleep(pause_after(attempts))


class Pauses:
    """Jobs that are not taken again at once, for what they need was down."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pauses: dict[JobName, tuple[int, float]] = {}

    def add(self, job: JobName) -> None:
        """Begin a pause, longer than the last."""
        attempts = self._pauses.get(job, (0, 0.0))[0] + 1
        self._pauses[job] = attempts, self._clock() + pause_after(attempts)

    def forget(self, job: JobName) -> None:
        """Begin anew: the job's last run did not fail for want of something."""
        self._pauses.pop(job, None)

    def jobs(self) -> set[JobName]:
        """Return the jobs whose pause is not over."""
        now = self._clock()
        self._pauses = {
            job: (attempts, until)
            for job, (attempts, until) in self._pauses.items()
            # Of a job that nobody claims any more nothing needs to be known.
            if now < until + 20 * _SECONDS[-1]
        }
        return {job for job, (_, until) in self._pauses.items() if now < until}

    def next_end(self) -> float | None:
        """Return in how many seconds the next pause is over; None without any."""
        now = self._clock()
        ends = [until - now for _, until in self._pauses.values() if now < until]
        return min(ends, default=None)
