from __future__ import annotations

import asyncio
import gc

import pytest

from tailorbird.errors import StoreUnavailable
from tailorbird.uninterrupted import uninterrupted


async def test_what_work_came_to_is_told_to_who_waits_and_to_nobody_else() -> None:
    complained: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complained.append(told))
    go_on = asyncio.Event()

    async def fails() -> str:
        await go_on.wait()
        raise StoreUnavailable("the store does not answer")

    gave_up, waits = (asyncio.create_task(uninterrupted(fails())) for _ in range(2))
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

    assert await uninterrupted(works()) == "made"
