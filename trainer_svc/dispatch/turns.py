"""Turns at what takes long: few at once, one of each tenant, and a bounded number who wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tailorbird.errors import ResourceExhausted


class Turns:
    """At most `at_once` at a time, of each tenant one, in the order in which they came.

    A tenant with many waits for itself: of the others each has as much of a turn as it.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._waiting = waiting
        self._own: dict[str, asyncio.Lock] = {}
        self._asked: Counter[str] = Counter()

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a tenant's turn and hold it.

        ResourceExhausted (TOO_MANY_CHECKS) if as many as may are waiting for theirs already.
        """
        if self._asked[tenant] > self._waiting:
            raise ResourceExhausted(
                f"{self._waiting} checks of data are waiting for this tenant's turn already; wait "
                "for them, or create the job without validate_only",
                reason="TOO_MANY_CHECKS",
                retry_after=5,
                limit=self._waiting,
            )
        self._asked[tenant] += 1
        try:
            async with self._own.setdefault(tenant, asyncio.Lock()), self._free:
                yield
        finally:
            self._asked[tenant] -= 1
            if not self._asked[tenant]:
                del self._asked[tenant], self._own[tenant]
