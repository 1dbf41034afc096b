"""One call that fails once: before it has any effect, or after it has had it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from trainer_svc.jobs.database import Database


class Fault:
    """Fails the call `number` of `method`, with `error`, once; calls for tenant `other` pass."""

    def __init__(self, method: str, number: int, error: Exception, *, after: bool) -> None:
        self.method = method
        self.error = error
        self.after = after
        self.struck = False
        self.loses_answer: asyncio.Task[Any] | None = None
        """Whose next transaction is committed without its hearing of it."""
        self.struck_too: Callable[[], None] = lambda: None
        """What happens besides."""
        self._left = number

    def on(self, target: Any) -> Any:
        """Return `target` with this fault in it."""
        return _Faulty(target, self)

    async def around(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self._left -= 1
        if self._left:
            return await call()
        self.struck = True
        self.struck_too()
        if self.after:
            self.loses_answer = asyncio.current_task()
            await call()
            self.loses_answer = None
        raise self.error


class _Faulty:
    def __init__(self, target: Any, fault: Fault) -> None:
        self._target = target
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name != self._fault.method or not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            if "other" in repr(args):
                return await found(*args, **kwargs)
            return await self._fault.around(lambda: found(*args, **kwargs))

        return call


class FaultyDatabase:
    """A database whose answer to a commit can get lost."""

    def __init__(self, database: Database, fault: Fault) -> None:
        self._database = database
        self._fault = fault
        self.read = database.read
        self.later = database.later

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Any]:
        async with self._database.write() as connection:
            yield connection
        if self._fault.loses_answer is asyncio.current_task():
            self._fault.loses_answer = None
            raise self._fault.error
