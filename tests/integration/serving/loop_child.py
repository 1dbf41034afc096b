"""python -m tests.integration.serving.loop_child FILE: serving that writes down slow callbacks.

One line in FILE for each callback of the event loop that took 5 ms or more of its thread's CPU
time: the milliseconds, and what it was. On asyncio's own loop: uvloop's has nothing to measure at.
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio import events
from pathlib import Path
from typing import Any

import uvloop

from serving_svc.__main__ import main

_LEAST_SECONDS = 0.005


def watch(path: Path) -> None:
    """Measure every callback of this process's event loops from now on."""
    handle_type: Any = events.Handle
    plain = handle_type._run
    record = path.open("a", buffering=1)

    def run(handle: Any) -> None:
        began = time.thread_time()
        plain(handle)
        took = time.thread_time() - began
        if took >= _LEAST_SECONDS:
            record.write(f"{took * 1000:.1f} {handle!r}\n")

    handle_type._run = run
    vars(uvloop)["run"] = asyncio.run


if __name__ == "__main__":
    watch(Path(sys.argv.pop(1)))
    sys.exit(main())
