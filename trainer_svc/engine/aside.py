"""A process that does one thing for its parent and ends: it never outlives who asked for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

from tailorbird.printed import log_as_the_parent
from trainer_svc.protocol import encode
from trainer_svc.record import Record

_NICE = 5
"""More than the worker's: where the two share cores, steps have three quarters of them."""


def serve_one(fd: int, answer: Callable[[bytes], Record]) -> None:
    """Read a line from the inherited socket, and send what `answer` makes of it.

    When the other end closes the process exits at once, whatever it is doing.
    """
    connection = socket.socket(fileno=fd)
    with connection.makefile("rb") as lines:
        line = lines.readline()
    if not line:
        return
    Thread(target=_leave_with, args=(connection,), daemon=True).start()
    _give_way()
    log_as_the_parent()
    connection.sendall(encode(answer(line)))


def _leave_with(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.recv(1)
    os._exit(1)


def _give_way() -> None:
    """Let the worker have the cores first, and lose the memory last."""
    os.nice(_NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
