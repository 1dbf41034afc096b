from __future__ import annotations

import asyncio
import itertools

import pytest

from tailorbird.errors import ResourceExhausted
from tailorbird.turns import Turns
from tests.unit.serving_svc.adapters.cancelling import CancelledAt


def turns(limit: int, **more: int) -> Turns:
    return Turns(limit, waiting="things to be done", reason="THINGS_WAITING", **more)


class Jobs:
    """Takes turns, and lets one after the other go."""

    def __init__(self, limit: int, **more: int) -> None:
        self.turns = turns(limit, **more)
        self.began: list[str] = []
        self.running = 0
        self.most = 0
        self.go_on = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    def ask(self, *tenants: str) -> None:
        self.tasks += [asyncio.create_task(self.run(tenant)) for tenant in tenants]

    async def run(self, tenant: str) -> None:
        async with self.turns.turn(tenant):
            self.began.append(tenant)
            self.running += 1
            self.most = max(self.most, self.running)
            await self.go_on.wait()
            self.running -= 1

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def finish(self) -> None:
        self.go_on.set()
        await asyncio.gather(*self.tasks)


async def test_tenants_go_in_turn() -> None:
    jobs = Jobs(1)
    jobs.ask("a", "a", "a", "a", "b", "b", "c")
    await jobs.settle()
    assert jobs.began == ["a"]
    await jobs.finish()
    assert jobs.began == ["a", "a", "b", "c", "a", "b", "a"]
    assert jobs.most == 1


async def test_one_tenant_leaves_a_place_for_another() -> None:
    jobs = Jobs(3)
    jobs.ask("a", "a", "a", "a")
    await jobs.settle()
    assert jobs.began == ["a", "a"]
    jobs.ask("b", "b")
    await jobs.settle()
    assert jobs.began == ["a", "a", "b"]
    await jobs.finish()
    assert len(jobs.began) == 6
    assert jobs.most <= 3


async def test_a_tenant_has_no_more_places_than_it_may() -> None:
    jobs = Jobs(3, of_a_tenant=1)
    jobs.ask("a", "a", "b", "c", "d")
    await jobs.settle()
    assert jobs.began == ["a", "b", "c"]
    await jobs.finish()
    assert jobs.began == ["a", "b", "c", "a", "d"]


async def test_a_turn_cancelled_anywhere_is_given_on() -> None:
    for at in itertools.count(1):
        jobs = Jobs(1)
        jobs.ask("a")
        await jobs.settle()
        watched = CancelledAt(jobs.run("a"), at)
        jobs.tasks.append(asyncio.create_task(watched.run()))
        jobs.ask("a")
        await jobs.settle()
        jobs.go_on.set()
        await asyncio.wait(jobs.tasks)
        await jobs.run("b")
        assert not jobs.turns._running
        assert not jobs.turns._waiting
        if watched.suspensions < at:
            break
    assert at > 1


async def test_a_turn_granted_to_who_is_cancelled_is_given_on() -> None:
    one = turns(1)
    held = one.turn("a")
    await held.__aenter__()
    waiting = asyncio.create_task(one.turn("a").__aenter__())
    await asyncio.sleep(0)
    # Granted and cancelled before the waiter runs again.
    await held.__aexit__(None, None, None)
    waiting.cancel()
    await asyncio.wait({waiting})
    async with one.turn("b"):
        pass
    assert not one._running


async def test_a_tenant_that_waits_too_often_is_told_and_another_is_not() -> None:
    two = turns(2, max_waiting=2)
    async with two.turn("a"):
        waiting = [asyncio.create_task(two.turn("a").__aenter__()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted) as caught:
            await two.turn("a").__aenter__()
        assert caught.value.reason == "THINGS_WAITING"
        async with two.turn("b"):
            pass
        # Who gives up waits no more.
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert not two._waiting
