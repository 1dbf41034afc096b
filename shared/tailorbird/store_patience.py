"""How long a call waits for the object store, and how often it asks again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from obstore.exceptions import BaseError

from tailorbird.store_errors import is_folder_race, may_pass

_T = TypeVar("_T")

RETRY_SECONDS = 30.0
"""For how long a request that fails is tried again, unless a service is told otherwise."""
STALL_SECONDS = 20.0
"""How long a store may bring nothing. S3's slow answers come within a few seconds."""

_RACES = 10
"""Tries of a put into a folder that somebody else deletes each time."""
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_SLOWEST = 2**20
"""Bytes a second that a request's body goes up with, at least."""


@dataclass(frozen=True, slots=True)
class Patience:
    """The bounds of one call, in seconds."""

    retry_seconds: float = RETRY_SECONDS
    """For how long it is tried again; 0: never."""
    stall_seconds: float = STALL_SECONDS
    """How long one try may wait for the store, beside the time that what it carries takes."""

    def seconds(self, size: int = 0) -> float:
        """Return the seconds that one try may take which carries `size` bytes."""
        return self.stall_seconds + size / _SLOWEST

    def limit(self, size: int = 0, seconds: float = 0.0) -> asyncio.Timeout:
        """Raise TimeoutError in a try which takes longer, and `seconds` more."""
        return asyncio.timeout(self.seconds(size) + seconds)

    async def call(self, ask: Callable[[], Awaitable[_T]], tries: int = 2) -> _T:
        """Return what `ask` does, in as many tries as it takes; raise what the last one raised.

        There are `tries` of them however long they took, and more while there is time. What cannot
        pass is raised at once.
        """
        loop, races = asyncio.get_running_loop(), _RACES
        ends = loop.time() + self.retry_seconds
        pauses = _pauses()
        while True:
            pause, tries = next(pauses), tries - 1
            try:
                return await ask()
            except (BaseError, OSError) as error:
                races -= is_folder_race(error)
                if races and is_folder_race(error):
                    continue
                late = tries < 1 and loop.time() + pause > ends
                if late or not self.retry_seconds or not may_pass(error):
                    raise
            await asyncio.sleep(pause)


def _pauses() -> Iterator[float]:
    """Yield the seconds between two tries: twice as long each time, half of it by chance.

    So that callers whom one failure has hit do not come back at the same moment.
    """
    pause = _FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - only spreads calls
        pause = min(2 * pause, _LONGEST_PAUSE)
