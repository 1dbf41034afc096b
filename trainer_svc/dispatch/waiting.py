"""Waiting for whichever of two things comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

_T = TypeVar("_T")


async def first(action: Coroutine[Any, Any, _T], other: Coroutine[Any, Any, object]) -> _T | None:
    """Return what `action` gives, or None if `other` ends before it; what goes on is ended."""
    task, end = asyncio.create_task(action), asyncio.create_task(other)
    try:
        await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for pending in (task, end):
            pending.cancel()
        await asyncio.wait({task, end})


async def wait(event: asyncio.Event, seconds: float | None) -> None:
    """Wait for the event, or until so much time is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
