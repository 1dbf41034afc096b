"""Ends a process of the engine whose parent is gone: killed, nobody would ever ask it again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

_LOOK_SECONDS = 1.0


def end_with_parent() -> None:
    """Have this process killed soon after the one that started it has ended, in whichever way.

    A process that nobody started through multiprocessing, such as serving's own, lives on.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        threading.Thread(target=_watch, args=(parent.pid,), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    # multiprocessing's own sentinel also ends when the parent forgets the process.
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    # Its threads may be inside a library that hears nothing else.
    os.kill(os.getpid(), signal.SIGKILL)
