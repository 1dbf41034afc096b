"""A command that SIGTERM or SIGINT ends before its work is done: it says so, and does not exit 0.

Standard library only: it is there before anything large is imported.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from types import FrameType
from typing import Any, NoReturn

_SECONDS = 10.0


class Interruption:
    """Ends a command by a signal with 128 + its number, and a line that says what was interrupted.

    Until `run`, nothing is open and the process ends at once. From then on the work is cancelled,
    and has `seconds` to close what it holds; with the end of the process after it.
    """

    def __init__(self, what: str, seconds: float = _SECONDS) -> None:
        self._what = " ".join(what.split())
        self._seconds = seconds
        self._number: int | None = None
        self._task: asyncio.Task[int] | None = None
        self._said = False

    def heed(self, number: int, _: FrameType | None = None) -> None:
        """Take a signal, as its handler."""
        if self._task is None:
            self._leave(number)
        if self._number is not None:
            return
        self._number = number
        # No thread or event loop has a part in it: either may be what does not end.
        signal.signal(signal.SIGALRM, lambda *_: self._leave(number))
        signal.setitimer(signal.ITIMER_REAL, self._seconds)
        if not self._task.done():
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    async def run(self, work: Coroutine[Any, Any, int]) -> int:
        """Return the exit status: that of `work`, or 128 + the number of the signal that ended it.

        What it raises passes through, unless it was interrupted.
        """
        self._task = asyncio.create_task(work)
        try:
            return await self._task
        except (asyncio.CancelledError, Exception):
            if self._number is None:
                raise
        self._said = True
        # Where logs are JSON, this becomes a record.
        sys.stderr.write(self._line(self._number))
        return 128 + self._number

    def _leave(self, number: int) -> NoReturn:
        if not self._said:
            # A handler may come in the midst of a write to sys.stderr.
            os.write(2, self._line(number).encode(errors="backslashreplace"))
        os._exit(128 + number)

    def _line(self, number: int) -> str:
        name = signal.Signals(number).name
        return f"{self._what}: interrupted by {name} before its end; run it again\n"
