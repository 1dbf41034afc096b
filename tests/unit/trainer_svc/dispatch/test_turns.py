"""A tenant with many waits for itself, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tailorbird.errors import ResourceExhausted
from trainer_svc.dispatch.turns import Turns


class Crowd:
    """Callers of one Turns: each notes when its turn comes, and keeps it until it is let go."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self.turns = Turns(at_once, waiting)
        self.at: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, who: str) -> None:
        """`who`'s tenant is the name's first letter."""
        self._leave[who] = asyncio.Event()
        self._tasks[who] = asyncio.create_task(self._hold(who))
        await self.settle()

    async def _hold(self, who: str) -> None:
        async with self.turns.of(who[0]):
            self.at.append(who)
            await self._leave[who].wait()

    async def leave(self, who: str) -> None:
        self._leave[who].set()
        await self._tasks[who]
        await self.settle()

    async def hang_up(self, who: str) -> None:
        self._tasks[who].cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._tasks[who]
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


async def test_few_at_once_and_one_of_each_tenant() -> None:
    crowd = Crowd(at_once=2, waiting=4)
    for who in ("a1", "a2", "a3", "b1", "c1"):
        await crowd.come(who)
    # The second of a waits for the first of a, and b passes.
    assert crowd.at == ["a1", "b1"]
    await crowd.leave("a1")
    # c came before a's second got so far as to wait for a place.
    assert crowd.at == ["a1", "b1", "c1"]
    await crowd.leave("b1")
    assert crowd.at[-1] == "a2"
    await crowd.leave("c1")
    assert crowd.at[-1] == "a2"
    await crowd.leave("a2")
    assert crowd.at[-1] == "a3"
    await crowd.leave("a3")


async def test_who_hangs_up_gives_the_turn_back() -> None:
    crowd = Crowd(at_once=1, waiting=4)
    for who in ("a1", "b1", "c1"):
        await crowd.come(who)
    await crowd.hang_up("b1")
    await crowd.hang_up("a1")
    assert crowd.at == ["a1", "c1"]
    await crowd.leave("c1")


async def test_so_many_of_a_tenant_wait_and_no_more() -> None:
    crowd = Crowd(at_once=1, waiting=2)
    for who in ("a1", "a2", "a3"):
        await crowd.come(who)
    with pytest.raises(ResourceExhausted, match="2 checks of data") as caught:
        async with crowd.turns.of("a"):
            pass
    assert caught.value.reason == "TOO_MANY_CHECKS"
    assert caught.value.metadata["limit"] == "2"
    await crowd.come("b1")
    for who in ("a1", "b1", "a2", "a3"):
        await crowd.leave(who)
    # All are gone, and nothing of them is kept.
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(crowd.turns.of("a"))
    assert not crowd.turns._own
    assert not crowd.turns._asked
