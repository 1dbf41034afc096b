"""A tenant's records of a day: counted in the store, and between its listings here."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from serving_svc.feedback.quota import DailyQuota
from tailorbird.errors import ResourceExhausted, StoreUnavailable
from tailorbird.names import TenantName
from tests.unit.tailorbird.feedback_values import NOON

ACME, GLOBEX = TenantName("acme"), TenantName("globex")


class Stored:
    """A store that holds `counts`, and says how often it was asked."""

    def __init__(self, **counts: int) -> None:
        self.counts = counts
        self.asked: list[tuple[str, str]] = []
        self.fails = False
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.was_asked = asyncio.Event()

    async def count(self, tenant: TenantName, day: str) -> int:
        self.asked.append((tenant.tenant, day))
        self.was_asked.set()
        if self.fails:
            raise StoreUnavailable("down")
        found = self.counts.get(tenant.tenant, 0)
        await self.go_on.wait()
        return found


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def take(quota: DailyQuota, tenant: TenantName = ACME, **later: float) -> None:
    async with quota.place(tenant, NOON + timedelta(**later)):
        pass


async def test_what_is_stored_already_counts() -> None:
    stored = Stored(acme=2)
    quota = DailyQuota(stored, 3)
    await take(quota)
    with pytest.raises(ResourceExhausted) as caught:
        await take(quota)
    error = caught.value
    assert error.reason == "FEEDBACK_PER_DAY"
    assert error.metadata["quota"] == "feedback_records_per_day"
    assert (error.metadata["subject"], error.metadata["limit"]) == ("tenants/acme", "3")
    assert error.retry_after == 12 * 3600
    assert stored.asked == [("acme", "20261123")]
    await take(quota, GLOBEX)


async def test_the_next_day_is_another() -> None:
    stored = Stored()
    quota = DailyQuota(stored, 1)
    await take(quota)
    await take(quota, GLOBEX)
    await take(quota, days=1)
    with pytest.raises(ResourceExhausted):
        await take(quota, days=1)
    assert stored.asked[-1] == ("acme", "20261124")
    # What is of days that are over takes no memory.
    assert set(quota._counts) == {ACME}


async def test_what_others_store_is_seen_after_a_minute_and_not_before() -> None:
    stored, clock = Stored(), Clock()
    quota = DailyQuota(stored, 5, clock=clock)
    await take(quota)
    stored.counts["acme"] = 5
    clock.now = 59.0
    await take(quota)
    clock.now = 60.0
    with pytest.raises(ResourceExhausted):
        await take(quota)
    assert len(stored.asked) == 2
    stored.counts["acme"] = 4
    clock.now = 119.0
    with pytest.raises(ResourceExhausted):
        await take(quota)
    clock.now = 120.0
    await take(quota)


async def test_what_fails_takes_no_place_and_what_is_under_way_does() -> None:
    quota = DailyQuota(Stored(), 1)
    with pytest.raises(ValueError, match="failed"):
        async with quota.place(ACME, NOON):
            with pytest.raises(ResourceExhausted):
                await take(quota)
            raise ValueError("failed")
    await take(quota)
    with pytest.raises(ResourceExhausted):
        await take(quota)


async def test_what_is_stored_while_the_store_is_counted_counts() -> None:
    stored, clock = Stored(), Clock()
    quota = DailyQuota(stored, 2, clock=clock)
    async with quota.place(ACME, NOON):
        clock.now = 60.0
        stored.go_on.clear()
        counting = asyncio.create_task(take(quota))
        stored.was_asked.clear()
        await stored.was_asked.wait()
    stored.go_on.set()
    await counting
    with pytest.raises(ResourceExhausted):
        await take(quota)


async def test_a_crowd_counts_the_store_once() -> None:
    stored = Stored()
    quota = DailyQuota(stored, 100)
    await asyncio.gather(*(take(quota) for _ in range(10)))
    assert len(stored.asked) == 1


async def test_a_store_that_is_down_says_so_and_is_asked_again() -> None:
    stored = Stored(acme=1)
    stored.fails = True
    quota = DailyQuota(stored, 1)
    with pytest.raises(StoreUnavailable):
        await take(quota)
    stored.fails = False
    with pytest.raises(ResourceExhausted):
        await take(quota)
