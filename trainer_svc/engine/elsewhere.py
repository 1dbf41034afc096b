"""Work in another thread, awaited so that a cancellation outlasts it.

A phase that is cancelled may take its adapter off and delete its folder: only when nothing in
another thread uses them any more.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Generator
from threading import Event
from typing import TypeVar

from tailorbird.errors import Aborted

T = TypeVar("T")


async def finished(
    future: asyncio.Future[T] | concurrent.futures.Future[T], stop: Callable[[], object]
) -> T:
    """Await the future. If that is cancelled, call `stop` and wait until the work is over."""
    waiting = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait({waiting})
        if not waiting.cancelled():
            waiting.exception()  # nobody else asks for it
        raise


async def in_thread(action: Callable[[Callable[[], bool]], T]) -> T:
    """Run `action` in a thread. What it gets tells whether it may stop: nobody waits any more."""
    stop = Event()

    def told() -> T:
        try:
            return action(stop.is_set)
        except StopIteration as error:
            # No future takes one: whoever awaits it would wait for ever.
            raise RuntimeError("an iterator had no more") from error

    return await finished(asyncio.ensure_future(asyncio.to_thread(told)), stop.set)


def stoppable(work: Generator[None, None, T], stop: Event) -> Generator[None, None, T]:
    """Return `work` as one that ends with Aborted before its next piece once `stop` is set."""
    while not stop.is_set():
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        yield
    raise Aborted("the job was stopped")
