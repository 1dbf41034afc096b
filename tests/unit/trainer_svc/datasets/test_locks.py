"""What is done under a lock is done to its end, whoever gives it up."""

from __future__ import annotations

import asyncio
import gc

import pytest

from tailorbird.errors import StoreUnavailable
from trainer_svc.datasets.locks import Locks, to_its_end


async def test_who_gives_up_again_and_again_holds_the_lock_until_the_work_is_done() -> None:
    locks = Locks()
    begun, go_on = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def half_way() -> None:
        begun.set()
        await go_on.wait()
        done.append("work")

    async def holds() -> None:
        async with locks.held("a"):
            await to_its_end(half_way())

    async def comes_later() -> None:
        async with locks.held("a"):
            done.append("later")

    first = asyncio.create_task(holds())
    await begun.wait()
    later = asyncio.create_task(comes_later())
    for _ in range(3):
        first.cancel()
        # Both have their turns.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not first.done()
    go_on.set()
    await later
    assert done == ["work", "later"]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_what_work_came_to_is_told_to_who_waits_and_to_nobody_else() -> None:
    complained: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complained.append(told))
    go_on = asyncio.Event()

    async def fails() -> str:
        await go_on.wait()
        raise StoreUnavailable("the store does not answer")

    gave_up, waits = (asyncio.create_task(to_its_end(fails())) for _ in range(2))
    await asyncio.sleep(0)
    gave_up.cancel()
    go_on.set()
    with pytest.raises(StoreUnavailable):
        await waits
    with pytest.raises(asyncio.CancelledError):
        await gave_up
    del gave_up
    # An error that nobody asked for is complained of when its task goes.
    gc.collect()
    assert complained == []

    async def works() -> str:
        return "made"

    assert await to_its_end(works()) == "made"
