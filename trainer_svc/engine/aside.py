"""A process that does one thing for its parent and ends: it never outlives who asked for it."""

from __future__ import annotations

import socket
from collections.abc import Callable

from tailorbird.aside import stand_aside
from trainer_svc.protocol import encode
from trainer_svc.record import Record


def serve_one(fd: int, answer: Callable[[bytes], Record]) -> None:
    """Read a line from the inherited socket, and send what `answer` makes of it.

    When the other end closes the process exits at once, whatever it is doing.
    """
    connection = socket.socket(fileno=fd)
    with connection.makefile("rb") as lines:
        line = lines.readline()
    if not line:
        return
    stand_aside(fd)
    connection.sendall(encode(answer(line)))
