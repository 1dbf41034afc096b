"""python -m tests.unit.trainer_svc.dispatch.endless FD: says one line that never ends."""

from __future__ import annotations

import socket
import sys

if __name__ == "__main__":
    connection = socket.socket(fileno=int(sys.argv[1]))
    while True:
        connection.sendall(b"x" * 2**16)
