"""What is said while a job is watched and no trainer answers, and when one does again."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.text import Text

from tailorbird.call_error import CallError
from tailorbird.cli.output import errors, out, plain

_AGAIN_SECONDS = 60.0
"""Between two words of one absence."""


def say_aside(text: str) -> None:
    """Print what belongs to no job: above a live display on a terminal, else to standard error."""
    console = out if out.is_terminal else errors
    console.print(Text(plain(text), style="yellow"), soft_wrap=True)


class Contact:
    """Tells a watcher of each absence of the trainer: that it begins, that it lasts, that it ends.

    `lost` and `back` are those of `TrainerClient.watch_job`.
    """

    def __init__(self, say: Callable[[str], None] = say_aside) -> None:
        self._say = say
        self._said: float | None = None

    def lost(self, error: CallError, left: float) -> None:
        """Say that the trainer is away, or now and then that it still is."""
        now = time.monotonic()
        if self._said is None:
            self._say(
                f"connection lost: {' '.join(error.message.split())}; trying again, for"
                f" {duration(left)} at most. The job does not need this watch"
            )
        elif now - self._said >= _AGAIN_SECONDS:
            self._say(f"no trainer answers yet; trying again, for {duration(left)} more")
        else:
            return
        self._said = now

    def back(self) -> None:
        """Say that a trainer answers again."""
        self._said = None
        self._say("connected again; no event was missed")


def duration(seconds: float) -> str:
    """Say a span of time in its two largest units: "3 min 55 s"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = whole % 3600 // 60
    return f"{whole // 3600} h {minutes} min" if minutes else f"{whole // 3600} h"
