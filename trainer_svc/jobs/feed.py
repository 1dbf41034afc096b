"""Wakes whoever waits for a job to change, inside this process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from tailorbird.names import JobName


class Feed:
    """Sets events when jobs change. Another replica's writes are not seen: wait with a limit."""

    def __init__(self) -> None:
        self._waiters: defaultdict[JobName, set[asyncio.Event]] = defaultdict(set)

    def publish(self, job: JobName) -> None:
        """Wake everybody who waits for `job`."""
        for event in self._waiters.get(job, ()):
            event.set()

    def publish_all(self) -> None:
        """Wake everybody: something may have changed unheard."""
        for job in list(self._waiters):
            self.publish(job)

    @contextmanager
    def subscribe(self, job: JobName) -> Iterator[asyncio.Event]:
        """Give an event that every change of `job` sets; the waiter clears it."""
        event = asyncio.Event()
        self._waiters[job].add(event)
        try:
            yield event
        finally:
            self._waiters[job].discard(event)
            if not self._waiters[job]:
                del self._waiters[job]
