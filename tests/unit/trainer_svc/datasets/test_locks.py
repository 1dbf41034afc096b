"""What is done under a lock is done to its end, whoever gives it up."""

from __future__ import annotations

import asyncio

import pytest

from tailorbird.uninterrupted import uninterrupted
from trainer_svc.datasets.locks import Locks


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
            await uninterrupted(half_way())

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
