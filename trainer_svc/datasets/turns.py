"""Turns by key: who asks for the same waits, who asks for another does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary


class Turns:
    """Lets `at_once` callers in for each key; the others wait in the order they came."""

    def __init__(self, at_once: int = 1) -> None:
        self._at_once = at_once
        self._of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, *keys: str) -> AsyncIterator[None]:
        """Hold a turn of every one of `keys`; in one order, so that no two wait for each other."""
        async with AsyncExitStack() as stack:
            for key in sorted(set(keys)):
                turn = self._of.get(key)
                if turn is None:
                    turn = self._of[key] = asyncio.Semaphore(self._at_once)
                await stack.enter_async_context(turn)
            yield
