"""How many records a tenant may have of one day."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from tailorbird.errors import ResourceExhausted
from tailorbird.feedback import feedback_day
from tailorbird.names import TenantName

_COUNT_SECONDS = 60.0


class Records(Protocol):
    """What is stored."""

    async def count(self, tenant: TenantName, day: str) -> int:
        """Return how many records the tenant has of a day."""


@dataclass(slots=True)
class _Count:
    """A tenant's records of one day, as far as this replica knows."""

    day: str
    stored: int = 0
    pending: int = 0
    stored_since: int = 0
    """Those of this replica since the present listing began, which it may have missed."""
    counted_at: float | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class DailyQuota:
    """At most `limit` records of a tenant a day.

    The store is counted, in one listing, when a tenant records for the first time and then once a
    minute at most; between two listings only this replica's own are added. So several replicas may
    pass the limit together by what they record within a minute.
    """

    def __init__(
        self, records: Records, limit: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._records = records
        self._limit = limit
        self._clock = clock
        self._counts: dict[TenantName, _Count] = {}

    @asynccontextmanager
    async def place(self, tenant: TenantName, now: datetime) -> AsyncIterator[None]:
        """Hold a place for one record of the day of `now`; it is taken if the block ends well.

        ResourceExhausted (FEEDBACK_PER_DAY) if there is none, to be tried again the next day.
        """
        count = self._count(tenant, feedback_day(now))
        await self._count_stored(tenant, count)
        if count.stored + count.pending >= self._limit:
            raise ResourceExhausted(
                f"{tenant} has {self._limit} records of feedback of {now.astimezone(UTC):%Y-%m-%d},"
                " the most of one day",
                reason="FEEDBACK_PER_DAY",
                retry_after=_seconds_left(now),
                quota="feedback_records_per_day",
                subject=tenant,
                limit=self._limit,
            )
        count.pending += 1
        try:
            yield
            count.stored += 1
            count.stored_since += 1
        finally:
            count.pending -= 1

    def _count(self, tenant: TenantName, day: str) -> _Count:
        count = self._counts.get(tenant)
        if count is None or count.day != day:
            self._counts = {name: one for name, one in self._counts.items() if one.day == day}
            count = self._counts[tenant] = _Count(day)
        return count

    async def _count_stored(self, tenant: TenantName, count: _Count) -> None:
        async with count.lock:
            now = self._clock()
            if count.counted_at is not None and now - count.counted_at < _COUNT_SECONDS:
                return
            count.stored_since = 0
            found = await self._records.count(tenant, count.day)
            count.stored = found + count.stored_since
            count.counted_at = now


def _seconds_left(now: datetime) -> float:
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (today + timedelta(days=1) - now).total_seconds()
