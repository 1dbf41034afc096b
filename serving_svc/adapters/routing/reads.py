"""Reads of the object store that end within a time, whatever the store does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import structlog

from tailorbird.errors import NotFound, Unavailable

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")


class BoundedReads:
    """Bounds each read to `seconds`. `down` tells whether the last one failed."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.down = False

    async def run(self, reading: Awaitable[_T]) -> _T:
        """Return what `reading` returns.

        Raises what it raises, and Unavailable (ROUTES_UNREADABLE) if it takes too long.
        """
        try:
            async with asyncio.timeout(self._seconds):
                found = await reading
        except NotFound:
            self.down = False
            raise
        except TimeoutError as error:
            self._failed(f"no answer within {self._seconds:g} s")
            raise Unavailable(
                f"the object store did not answer within {self._seconds:g} s",
                reason="ROUTES_UNREADABLE",
            ) from error
        except Unavailable as error:
            self._failed(error.message)
            raise
        self.down = False
        return found

    def _failed(self, why: str) -> None:
        if not self.down:
            _log.warning("routes cannot be read; the known ones stay in effect", error=why)
        self.down = True
