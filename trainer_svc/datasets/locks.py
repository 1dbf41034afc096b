"""Locks by key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary


class Locks:
    """Lets one caller in for each key; who asks for another does not wait.

    The others wait in the order they came.
    """

    def __init__(self) -> None:
        self._of: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def held(self, *keys: str) -> AsyncIterator[None]:
        """Hold every one of `keys`; in one order, so that no two wait for each other."""
        async with AsyncExitStack() as stack:
            for key in sorted(set(keys)):
                lock = self._of.get(key)
                if lock is None:
                    lock = self._of[key] = asyncio.Lock()
                await stack.enter_async_context(lock)
            yield
