"""What a service's child process does to stand in nobody's way, and never to outlive it."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from pathlib import Path
from threading import Thread

from tailorbird.printed import log_as_the_parent

_NICE = 5
"""Where the two share cores, the parent has three quarters of them."""


def stand_aside(fd: int) -> None:
    """Leave cores and memory to the parent first, and log as it does.

    When the other end of the socket `fd` closes the process exits at once, whatever it is doing.
    """
    Thread(target=_leave_with, args=(fd,), daemon=True).start()
    os.nice(_NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    log_as_the_parent()


def _leave_with(fd: int) -> None:
    closed = select.poll()
    # Of the end of a connection it tells unasked; what arrives is another's to read.
    closed.register(fd, 0)
    closed.poll()
    os._exit(1)
