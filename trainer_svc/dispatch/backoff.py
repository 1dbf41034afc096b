"""Doing again what failed only because something was down."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from tailorbird.errors import Unavailable

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")
_K = TypeVar("_K", bound=Hashable)
_SECONDS = (0.2, 0.5, 1, 2, 4, 8, 15, 30)
LONGEST = len(_SECONDS)
"""Attempts after which pauses do not grow any more."""


def pause_after(attempts: int) -> float:
    """Return how many seconds to wait after so many attempts in a row that failed."""
    return _SECONDS[min(attempts, len(_SECONDS)) - 1]


async def insist(action: Callable[[], Awaitable[_T]], tries: float = math.inf) -> _T:
    """Return what `action` gives, done again after growing pauses while it raises Unavailable.

    For what must be written sooner or later; the action must bear being done twice. After so many
    `tries` its error is raised.
    """
    attempts = 0
    while True:
        try:
            return await action()
        except Unavailable as error:
            attempts += 1
            if attempts >= tries:
                raise
            _log.warning("trying again", reason=error.reason, error=error.message)
            await asyncio.sleep(pause_after(attempts))


class Pauses(Generic[_K]):
    """What is not tried again at once, for what it needs was down: jobs, or bases."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pauses: dict[_K, tuple[int, float]] = {}

    def add(self, key: _K, *, at_least: int = 1) -> None:
        """Begin a pause, longer than the last, or as after `at_least` attempts."""
        attempts = max(self._pauses.get(key, (0, 0.0))[0] + 1, at_least)
        self._pauses[key] = attempts, self._clock() + pause_after(attempts)

    def forget(self, key: _K) -> None:
        """Begin anew: the last try did not fail for want of something."""
        self._pauses.pop(key, None)

    def paused(self) -> set[_K]:
        """Return those whose pause is not over."""
        now = self._clock()
        self._pauses = {
            key: (attempts, until)
            for key, (attempts, until) in self._pauses.items()
            # Of a job that nobody claims any more nothing needs to be known.
            if now < until + 20 * _SECONDS[-1]
        }
        return {key for key, (_, until) in self._pauses.items() if now < until}

    def next_end(self) -> float | None:
        """Return in how many seconds the next pause is over; None without any."""
        now = self._clock()
        ends = [until - now for _, until in self._pauses.values() if now < until]
        return min(ends, default=None)
