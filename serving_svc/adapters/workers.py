"""Threads of their own for what blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from tailorbird.errors import Unavailable
from tailorbird.uninterrupted import uninterrupted

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Workers:
    """At most `count` threads, so that neither the loop nor its default threads wait for disks."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="adapter-disk")
        self.closed = False

    async def run(self, call: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what `call` returns in one of the threads.

        A cancelled caller waits until the thread is done with it: what it wrote can be deleted.
        Unavailable once closed.
        """
        if self.closed:
            raise Unavailable("serving is stopping", reason="SHUTTING_DOWN")
        return await uninterrupted(self._run(partial(call, *args, **kwargs)))

    def submit(self, call: Callable[[], None]) -> None:
        """Begin `call`, which raises nothing, without waiting for it; nothing once closed."""
        if not self.closed:
            self._pool.submit(call)

    async def close(self) -> None:
        """Wait until every thread has ended."""
        self.closed = True
        await asyncio.to_thread(self._pool.shutdown)

    async def _run(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)
