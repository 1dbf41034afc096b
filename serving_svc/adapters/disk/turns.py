"""A bounded number of things at a time, shared out over the tenants in turn."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """At most `limit` at a time, and one fewer of any one tenant where there is more than one.

    Tenants that wait go round-robin: one that asks for a thousand delays another by one turn.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tenant_limit = max(1, limit - 1)
        self._running: Counter[str] = Counter()
        # The tenant whose turn is next comes first.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a turn, and hold it inside the block."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(granted)
        self._grant()
        try:
            await granted
            yield
        finally:
            if granted.done() and not granted.cancelled():
                self._end(tenant)

    def _end(self, tenant: str) -> None:
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
        self._grant()

    def _grant(self) -> None:
        while (tenant := self._next()) is not None:
            queue = self._waiting[tenant]
            granted = queue.popleft()
            if queue:
                self._waiting.move_to_end(tenant)
            else:
                del self._waiting[tenant]
            # One that was cancelled meanwhile needs no turn.
            if not granted.done():
                self._running[tenant] += 1
                granted.set_result(None)

    def _next(self) -> str | None:
        if self._running.total() >= self._limit:
            return None
        free = (name for name in self._waiting if self._running[name] < self._tenant_limit)
        return next(free, None)
