"""One task per key at a time, shared by everybody who asks meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from tailorbird.errors import Unavailable

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class SingleFlight(Generic[_K, _V]):
    """Runs `start()` once per key at a time.

    A caller that is cancelled ends its own wait, never the task.
    """

    def __init__(self) -> None:
        self._tasks: dict[_K, asyncio.Task[_V]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, key: _K, start: Callable[[], Coroutine[Any, Any, _V]]) -> _V:
        """Return what the key's task returns, or raise what it raises.

        Unavailable if the task was cancelled, which happens only while serving stops.
        """
        task = self.begin(key, start)
        await asyncio.wait({task})
        if task.cancelled():
            raise Unavailable("serving is stopping", reason="SHUTTING_DOWN")
        return task.result()

    def begin(self, key: _K, start: Callable[[], Coroutine[Any, Any, _V]]) -> asyncio.Task[_V]:
        """Return the key's task, begun if there is none, without waiting for it."""
        task = self._tasks.get(key)
        if task is None or task.done():
            task = asyncio.create_task(start())
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    async def close(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _ended(self, key: _K, task: asyncio.Task[_V]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled():
            # Marks the error as seen: every waiter may have gone.
            task.exception()
