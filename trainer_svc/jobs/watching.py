"""Following a job's history to its end, however many write to it and wherever they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager
from typing import Protocol

from tailorbird.errors import InvalidArgument
from tailorbird.names import JobName
from trainer_svc.jobs.events import JobEvent, StateChanged, Unknown
from trainer_svc.jobs.model import TERMINAL, Job

_EVENTS_PER_READ = 500
_POLL_SECONDS = 1.0


class Watched(Protocol):
    """The job store, as far as a watcher reads it."""

    async def get(self, name: JobName) -> Job:
        """Return a job; NotFound."""

    async def events(self, name: JobName, after_sequence: int, limit: int) -> list[JobEvent]:
        """Return up to `limit` events after a sequence, in order."""

    async def last_sequence(self, name: JobName) -> int:
        """Return the newest event's sequence; NotFound."""


class Feed(Protocol):
    """Wakes whoever waits for a job."""

    def subscribe(self, job: JobName) -> AbstractContextManager[asyncio.Event]:
        """Give an event that every change of `job` sets; the waiter clears it."""


async def watched(
    jobs: Watched, feed: Feed, name: JobName, after_sequence: int
) -> AsyncGenerator[JobEvent]:
    """Yield a job's events after a sequence, and end after the terminal one.

    What a later release has written into the history is passed over.
    Raises NotFound, and InvalidArgument for a sequence the job has not reached.
    """
    last = await jobs.last_sequence(name)
    if not 0 <= after_sequence <= last:
        raise InvalidArgument(
            "after_sequence", f"{after_sequence} is not between 0 and {last}, the newest event"
        )
    with feed.subscribe(name) as changed:
        while True:
            changed.clear()
            ended = (await jobs.get(name)).state in TERMINAL
            found = await jobs.events(name, after_sequence, _EVENTS_PER_READ)
            for event in found:
                after_sequence = event.sequence
                if isinstance(event.payload, Unknown):
                    continue
                yield event
                if isinstance(event.payload, StateChanged) and event.payload.state in TERMINAL:
                    return
            if ended and not found:
                return
            if not found:
                await _wait(changed)


async def _wait(changed: asyncio.Event) -> None:
    """Wait for a change here, or as long as another replica's may stay unseen."""
    try:
        async with asyncio.timeout(_POLL_SECONDS):
            await changed.wait()
    except TimeoutError:
        return
