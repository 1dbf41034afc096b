"""A trainer that is watched and does not answer: for how long it is asked again, and when."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import grpc

from tailorbird.call_error import CallError

CLIENT_CLOSED = "CLIENT_CLOSED"
"""The reason of a call that was cancelled because its own client was closed."""
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0


class Absence:
    """How long no trainer has answered, and when to ask again. `back` hears that one does."""

    def __init__(self, patience: float, back: Callable[[], None] | None) -> None:
        self._patience = patience
        self._back = back
        self._since: float | None = None
        self._delay = _FIRST_DELAY

    def is_over(self) -> None:
        """A trainer answers: its next absence is a new one."""
        was_away = self._since is not None
        self._since, self._delay = None, _FIRST_DELAY
        if was_away and self._back is not None:
            self._back()

    def left(self) -> float:
        """Return for how many seconds it is worth to ask again; below 0: no more."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        return self._since + self._patience - now

    def delay(self) -> float:
        """Return the seconds until the next attempt; it grows."""
        delay = self._delay * random.uniform(0.5, 1.0)  # noqa: S311 - only spreads reconnects
        self._delay = min(2 * self._delay, _LONGEST_DELAY)
        return delay


def is_away(error: CallError) -> bool:
    """Tell whether the trainer is gone: it says so, or what stands before it cut the stream.

    An INTERNAL error of the trainer's own carries an id; a proxy whose trainer died sends none. A
    server that closes as a call arrives cancels it; nobody here cancels a watch and reads on.
    """
    if error.reason == CLIENT_CLOSED:
        return False
    cut = error.code is grpc.StatusCode.INTERNAL and not error.metadata
    return cut or error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
