"""Locks by key, and what is done under one to its end: nobody finds it half-way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


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


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Do `work`; who gives up, however often, hears so when it is done.

    What is on its way to a store, or in a thread, goes on without whoever sent it.
    """
    doing = asyncio.ensure_future(work)
    given_up: asyncio.CancelledError | None = None
    while not doing.done():
        try:
            await asyncio.wait({doing})
        except asyncio.CancelledError as error:
            given_up = error
    if given_up is not None:
        # Marks the error as seen: nobody else asks for it.
        _ = doing.cancelled() or doing.exception()
        raise given_up
    return doing.result()
