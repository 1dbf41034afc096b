"""Work that a cancellation does not leave half done."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end; cancellations of the caller meanwhile are raised, as one, after it.

    What is on its way to a store, or in a thread, goes on without whoever sent it.
    """
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        # Marks the error as seen: the cancellation goes before it.
        _ = task.cancelled() or task.exception()
        raise cancelled
    return task.result()
