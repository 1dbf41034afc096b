"""Doing again what failed only because something was down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from tailorbird.errors import Unavailable

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")
_SECONDS = (0.2, 0.5, 1, 2, 4, 8, 15, 30)


async def insist(action: Callable[[], Awaitable[_T]]) -> _T:
    """Return what `action` gives, done again after growing pauses while it raises Unavailable.

    For what must be written sooner or later; the action must bear being done twice.
    """
    attempt = 0
    while True:
        try:
            return await action()
        except Unavailable as error:
            _log.warning("trying again", reason=error.reason, error=error.message)
            await asyncio.sleep(_SECONDS[min(attempt, len(_SECONDS) - 1)])
            attempt += 1
