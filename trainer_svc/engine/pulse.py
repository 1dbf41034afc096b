"""Says again and again that the worker runs, and ends it when what it lives by hangs."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NoReturn

Sign = Callable[[], int | None]

_BEATS = 12
_LONGEST_SECONDS = 3600.0
"""More than the event loop, or a pass on a GPU, takes for anything."""


class Pulse:
    """Beats twelve times in `silence` seconds, in a thread of its own.

    At each `say` tells the service; it returns False while that takes nothing. `signs`, by what
    they are of, change while that goes on, and are None while it waits for work. One that stays
    the same for `longest` seconds, by beats, so that a process that was stopped counts none, raises
    TimeoutError, at which the worker ends.
    """

    def __init__(
        self,
        say: Callable[[], bool],
        silence: float,
        signs: Mapping[str, Sign],
        *,
        longest: float = _LONGEST_SECONDS,
    ) -> None:
        self._say = say
        self._pause = silence / _BEATS
        self._signs = signs
        self._longest = longest
        self._last: dict[str, int | None] = {}
        self._still: Counter[str] = Counter()

    def run(self) -> NoReturn:
        """Beat for ever."""
        never = threading.Event()
        while True:
            # A sleep may fail where the clock is another than the machine's.
            never.wait(self._pause)
            self.beat()

    def beat(self) -> None:
        """Beat once."""
        if not self._say():
            # Whoever has something to report waits as well.
            self._still.clear()
            return
        for what, sign in self._signs.items():
            now = sign()
            same = now is not None and now == self._last.get(what)
            self._still[what] = self._still[what] + 1 if same else 0
            self._last[what] = now
            if self._still[what] * self._pause > self._longest:
                raise TimeoutError(f"{what} has hung for {self._longest:g} s")


def turns_of(loop: asyncio.AbstractEventLoop) -> Sign:
    """Return a sign that changes with each look while the event loop turns."""
    turns = 0

    def turned() -> None:
        nonlocal turns
        turns += 1

    def sign() -> int:
        loop.call_soon_threadsafe(turned)
        return turns

    return sign
