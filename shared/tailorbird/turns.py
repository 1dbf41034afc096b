"""A bounded number of things at a time, shared out over the tenants in turn."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tailorbird.errors import ResourceExhausted

# Callers that give up leave what they asked for in the queue: it is done for them all the same.
_MAX_WAITING = 1024


class Turns:
    """At most `limit` at a time, and of one tenant `of_a_tenant`.

    That is one fewer than `limit` if it is not given, where there is more than one. Tenants that
    wait go round-robin: one that asks for a thousand delays another by one turn. At most
    `max_waiting` of a tenant wait; for what, `waiting` and the `reason` of the refusal say.
    """

    def __init__(
        self,
        limit: int,
        *,
        waiting: str,
        reason: str,
        max_waiting: int = _MAX_WAITING,
        of_a_tenant: int | None = None,
    ) -> None:
        self._limit = limit
        self._max_waiting = max_waiting
        self._what = waiting
        self._reason = reason
        self._tenant_limit = max(1, limit - 1) if of_a_tenant is None else of_a_tenant
        self._running: Counter[str] = Counter()
        # The tenant whose turn is next comes first.
        self._waiting: OrderedDict[str, dict[asyncio.Future[None], None]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a turn, and hold it inside the block.

        ResourceExhausted if too many of the tenant wait.
        """
        if len(self._waiting.get(tenant, ())) >= self._max_waiting:
            raise ResourceExhausted(
                f"{self._max_waiting} of tenants/{tenant} wait already, {self._what}: the most "
                "that may",
                reason=self._reason,
                limit=self._max_waiting,
            )
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, {})[granted] = None
        self._grant()
        try:
            await granted
            yield
        finally:
            if granted.done() and not granted.cancelled():
                self._end(tenant)
            else:
                self._leave(tenant, granted)

    def _leave(self, tenant: str, granted: asyncio.Future[None]) -> None:
        queue = self._waiting.get(tenant, {})
        queue.pop(granted, None)
        if not queue:
            self._waiting.pop(tenant, None)

    def _end(self, tenant: str) -> None:
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
        self._grant()

    def _grant(self) -> None:
        while (tenant := self._next()) is not None:
            queue = self._waiting[tenant]
            granted = next(iter(queue))
            del queue[granted]
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
