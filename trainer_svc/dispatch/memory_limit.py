"""How much of the machine's memory a process and its children take, and whether that was too much.

Neither RLIMIT_AS nor RLIMIT_DATA suits torch: CUDA reserves addresses beyond any memory there is,
and each of hundreds of threads has a stack that it may write. A control group of its own cannot be
had in a pod. So what is resident is counted from outside: pages without a file, and those that were
swapped out; weights that are mapped from files are the page cache's.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_LOOK_SECONDS = 0.5
_COUNTED = ("RssAnon:", "RssShmem:", "VmSwap:")


async def exceeded(pid: int, limit: int) -> int:
    """Wait until the process `pid` and those it started have more than `limit` bytes; return them.

    Does not return while they have less, nor once they are gone.
    """
    while True:
        # Nobody tells when a process grows.
        taken = await asyncio.to_thread(tree_bytes, pid)
        if taken > limit:
            return taken
        await asyncio.sleep(_LOOK_SECONDS)


def tree_bytes(pid: int) -> int:
    """Return the bytes of memory that a process and its descendants have; 0 of one that is gone."""
    total, waiting = 0, [pid]
    while waiting:
        process = waiting.pop()
        total += _bytes(process)
        waiting += _children(process)
    return total


def kernel_kills(cgroups: Path = _CGROUPS, own: Path = _PROC / "self" / "cgroup") -> int | None:
    """Return how many processes of this one's control group the kernel killed for want of memory.

    None where nobody counts: in no group, or in one of the first version.
    """
    try:
        group = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
        events = (cgroups / group.lstrip("/") / "memory.events").read_text().splitlines()
        return int(next(line.split()[1] for line in events if line.startswith("oom_kill ")))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _bytes(pid: int) -> int:
    total = 0
    # It may end at any moment.
    with suppress(OSError, ValueError):
        for line in (_PROC / str(pid) / "status").read_text(errors="replace").splitlines():
            if line.startswith(_COUNTED):
                total += int(line.split()[1]) * 1024
    return total


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        # A child is listed under the thread that started it.
        for thread in (_PROC / str(pid) / "task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found
