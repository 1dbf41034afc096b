"""Whose turn it is, and what becomes of a place whose holder or heir is gone."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from trainer_svc.datasets.places import Places


class Work:
    """Takes turns and notes whose they were; each ends when it is told to."""

    def __init__(self, places: int) -> None:
        self.places = Places(places)
        self.order: list[str] = []
        self.end: dict[str, asyncio.Event] = {}

    async def start(self, tenant: str, name: str) -> asyncio.Task[None]:
        self.end[name] = asyncio.Event()
        task = asyncio.create_task(self._work(tenant, name))
        await settled()
        return task

    async def _work(self, tenant: str, name: str) -> None:
        async with self.places.taken(tenant):
            self.order.append(name)
            await self.end[name].wait()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def work() -> Work:
    return Work(1)


async def test_tenants_have_turns_and_each_its_own_in_order(work: Work) -> None:
    tasks = [await work.start("acme", f"a{number}") for number in range(4)]
    tasks += [await work.start("globex", f"g{number}") for number in range(2)]
    tasks += [await work.start("initech", "i0")]
    for name in ("a0", "a1", "g0", "i0", "a2", "g1", "a3"):
        assert work.order[-1] == name
        work.end[name].set()
        await settled()
    await asyncio.gather(*tasks)


async def test_as_many_work_at_once_as_there_are_places() -> None:
    work = Work(2)
    tasks = [await work.start("acme", f"a{number}") for number in range(3)]
    assert work.order == ["a0", "a1"]
    for each in work.end.values():
        each.set()
    await asyncio.gather(*tasks)
    tasks = [await work.start("acme", f"b{number}") for number in range(3)]
    assert work.order[3:] == ["b0", "b1"]
    for each in work.end.values():
        each.set()
    await asyncio.gather(*tasks)


async def test_whoever_gives_up_waiting_is_passed_over(work: Work) -> None:
    first, second, third = [await work.start("acme", name) for name in ("a0", "a1", "a2")]
    second.cancel()
    await settled()
    work.end["a0"].set()
    await first
    await settled()
    assert work.order == ["a0", "a2"]
    work.end["a2"].set()
    await third
    with suppress(asyncio.CancelledError):
        await second
    await work.start("globex", "g0")
    assert work.order[-1] == "g0"
    work.end["g0"].set()
    await settled()


async def test_a_turn_that_comes_with_the_cancellation_is_passed_on(work: Work) -> None:
    first, second, third = [await work.start("acme", name) for name in ("a0", "a1", "a2")]
    work.end["a0"].set()
    await asyncio.sleep(0)
    # The place is its own, and it has not run since.
    assert first.done()
    second.cancel()
    await settled()
    assert work.order == ["a0", "a2"]
    work.end["a2"].set()
    await third
    with suppress(asyncio.CancelledError):
        await second


async def test_a_holder_that_is_cancelled_leaves_its_place(work: Work) -> None:
    first, second = [await work.start(name, name) for name in ("a0", "g0")]
    first.cancel()
    await settled()
    assert work.order == ["a0", "g0"]
    work.end["g0"].set()
    await second
    with suppress(asyncio.CancelledError):
        await first
