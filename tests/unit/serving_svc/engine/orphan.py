"""A process, and one that it starts, for test_orphans."""

from __future__ import annotations

import multiprocessing
import os
import signal

from serving_svc.engine.orphans import end_with_parent


def parent() -> None:
    # Alone, it has no parent to end with.
    end_with_parent()
    multiprocessing.get_context("spawn").Process(target=child).start()
    signal.pause()


def child() -> None:
    end_with_parent()
    os.write(1, f"{os.getpid()}\n".encode())
    signal.pause()
