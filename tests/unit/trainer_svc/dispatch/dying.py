"""`python -m tests.unit.trainer_svc.dispatch.dying FD`: says each line again, and does it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time


def main(fd: int) -> None:
    connection = socket.socket(fileno=fd)
    lines = connection.makefile("rb")
    for line in lines:
        connection.sendall(line)
        word, _, rest = line.decode().strip().partition(" ")
        if word == "print":
            sys.stderr.write(f"{rest}\n")
            sys.stderr.flush()
        elif word == "raise":
            raise ValueError(rest)
        elif word == "signal":
            os.kill(os.getpid(), int(rest))
        elif word == "take":
            taken = b"x" * int(rest)
            connection.sendall(f"took {len(taken)}\n".encode())
            signal.pause()
        elif word == "exit":
            os._exit(int(rest))
        elif word == "hang":
            signal.pause()
        elif word == "chatter":
            threading.Thread(target=chatter, args=(connection,), daemon=True).start()
        elif word == "silence":
            connection.shutdown(socket.SHUT_RDWR)
            signal.pause()
        elif word == "start":
            started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            connection.sendall(f"{started.pid}\n".encode())
        elif word == "half":
            connection.sendall(b"no end")
            os._exit(0)
        elif word == "variable":
            connection.sendall(f"{os.environ.get(rest)}\n".encode())


def chatter(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"still here\n")
        time.sleep(0.02)


if __name__ == "__main__":
    main(int(sys.argv[1]))
