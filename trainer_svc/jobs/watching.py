"""Following jobs' histories to their ends, however many write to them and wherever they are."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from tailorbird.errors import InvalidArgument, ResourceExhausted
from tailorbird.names import JobName
from trainer_svc.jobs.events import JobEvent, StateChanged, Unknown
from trainer_svc.jobs.model import TERMINAL, Job

_EVENTS_PER_READ = 500
_POLL_SECONDS = 1.0
_MOST_OF_A_TENANT = 500
"""Watches that a tenant may have open here: each holds up to a read of events for its reader."""
_RETRY_SECONDS = 10.0

_log = structlog.get_logger(__name__)

_Read = tuple[bool, list[JobEvent]]
"""Whether the job had ended before its events were read, and the events."""


class Watched(Protocol):
    """The job store, as far as a watcher reads it."""

    async def get(self, name: JobName) -> Job:
        """Return a job; NotFound."""

    async def events(self, name: JobName, after_sequence: int, limit: int) -> list[JobEvent]:
        """Return up to `limit` events after a sequence, in order."""

    async def last_sequence(self, name: JobName) -> int:
        """Return the newest event's sequence; NotFound."""

    async def last_sequences(self, names: Sequence[JobName]) -> Mapping[JobName, int]:
        """Return the newest event's sequence of each of these jobs that there is."""


class Feed(Protocol):
    """Wakes whoever waits for a job."""

    def subscribe(self, job: JobName) -> AbstractContextManager[asyncio.Event]:
        """Give an event that every change of `job` sets; the waiter clears it."""


@dataclass(eq=False)
class _Watcher:
    changed: asyncio.Event
    sequence: int
    """The newest event that it has seen."""


class Watches:
    """Follows jobs for whoever watches them, at a cost that hardly grows with how many do.

    What another replica changes is looked for once a second, for all jobs together; and watchers of
    one job that are woken at the same place in its history read on together.
    """

    def __init__(self, jobs: Watched, feed: Feed) -> None:
        self._jobs = jobs
        self._feed = feed
        self._open: defaultdict[JobName, set[_Watcher]] = defaultdict(set)
        self._count: Counter[str] = Counter()
        """Watchers by tenant."""
        self._looking: asyncio.Task[None] | None = None
        self._reads: dict[tuple[JobName, int], asyncio.Task[_Read]] = {}
        """Those that have not begun."""

    async def events(self, name: JobName, after_sequence: int) -> AsyncGenerator[JobEvent]:
        """Yield a job's events after a sequence, and end after the terminal one.

        What a later release has written into the history is passed over.
        Raises NotFound, InvalidArgument for a sequence the job has not reached, and
        ResourceExhausted (TOO_MANY_WATCHES).
        """
        last = await self._jobs.last_sequence(name)
        if not 0 <= after_sequence <= last:
            raise InvalidArgument(
                "after_sequence", f"{after_sequence} is not between 0 and {last}, the newest event"
            )
        with self._watcher(name, after_sequence) as watcher:
            while True:
                watcher.changed.clear()
                ended, found = await self._read(name, watcher.sequence)
                for event in found:
                    watcher.sequence = event.sequence
                    if isinstance(event.payload, Unknown):
                        continue
                    yield event
                    if isinstance(event.payload, StateChanged) and event.payload.state in TERMINAL:
                        return
                if len(found) == _EVENTS_PER_READ:
                    continue
                if ended:
                    return
                await watcher.changed.wait()

    @contextmanager
    def _watcher(self, name: JobName, sequence: int) -> Iterator[_Watcher]:
        if self._count[name.tenant] >= _MOST_OF_A_TENANT:
            raise ResourceExhausted(
                f"{name.tenant} watches {self._count[name.tenant]} times at this trainer; "
                f"at most {_MOST_OF_A_TENANT} may be open",
                reason="TOO_MANY_WATCHES",
                retry_after=_RETRY_SECONDS,
                quota="watches",
                subject=f"tenants/{name.tenant}",
                limit=_MOST_OF_A_TENANT,
            )
        with self._feed.subscribe(name) as changed:
            watcher = _Watcher(changed, sequence)
            self._open[name].add(watcher)
            self._count[name.tenant] += 1
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            try:
                yield watcher
            finally:
                self._open[name].discard(watcher)
                if not self._open[name]:
                    del self._open[name]
                self._count[name.tenant] -= 1
                if not self._count[name.tenant]:
                    del self._count[name.tenant]

    async def _look(self) -> None:
        """Wake whoever has not seen the newest event of its job, or whose job is not found.

        Ends by itself once nobody watches: a query that is cancelled may lose its connection.
        """
        await asyncio.sleep(_POLL_SECONDS)
        while self._open:
            newest = await self._newest()
            for name, watchers in self._open.items():
                for watcher in watchers:
                    if newest.get(name, math.inf) > watcher.sequence:
                        watcher.changed.set()
            await asyncio.sleep(_POLL_SECONDS)

    async def _newest(self) -> Mapping[JobName, int]:
        try:
            return await self._jobs.last_sequences(list(self._open))
        except Exception as error:
            # Each watcher finds it out for itself then, and its caller hears of it.
            _log.warning("watched jobs cannot be looked at", error=type(error).__name__)
            return {}

    async def _read(self, name: JobName, after_sequence: int) -> _Read:
        key = name, after_sequence
        if key not in self._reads:
            self._reads[key] = asyncio.create_task(self._read_now(*key))
        return await asyncio.shield(self._reads[key])

    async def _read_now(self, name: JobName, after_sequence: int) -> _Read:
        # Whoever comes from here on may have been woken by what this read is too early for.
        del self._reads[name, after_sequence]
        ended = (await self._jobs.get(name)).state in TERMINAL
        return ended, await self._jobs.events(name, after_sequence, _EVENTS_PER_READ)
