"""How much of the device's time is judging's while others train."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

JUDGED_SHARE = 0.25
"""Of the device's time, for all who are judged together."""


class DeviceShare:
    """A piece of judging puts it in debt to training, which training's own time pays.

    After a piece of t seconds none is due until training has had t * (1 - share) / share. Nothing
    is saved up: who was not judged for an hour gets no more for it. Used by one thread.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"a share of {share} is not above 0 and at most 1")
        self._price = (1 - share) / share
        self._clock = clock
        self._owed = 0.0
        """Seconds."""

    def due(self, *, training: bool) -> bool:
        """Tell whether judging may have a piece now; it always may when nobody trains."""
        if not training:
            self._owed = 0.0
        return self._owed <= 0

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Count the time within as judging's."""
        start = self._clock()
        try:
            yield
        finally:
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                # Or whoever waits for the device next would pay for it.
                torch.cuda.synchronize()
            self._owed = (self._clock() - start) * self._price

    @contextmanager
    def training(self) -> Iterator[None]:
        """Count the time within as training's."""
        start = self._clock()
        try:
            yield
        finally:
            self._owed -= self._clock() - start
