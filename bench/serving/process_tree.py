"""CPU time of a process and all its descendants, from /proc."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree_cpu_seconds(root: int) -> float:
    """Return user and system seconds of `root` and its descendants, ended ones included.

    Of those that ended, only what their parents have waited for. 0 without such a process.
    """
    children: defaultdict[int, list[int]] = defaultdict(list)
    used: dict[int, float] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            stat = _stat(folder)
            if stat is not None:
                pid = int(folder.name)
                children[stat[0]].append(pid)
                used[pid] = stat[1]
    total, waiting = 0.0, [root]
    while waiting:
        pid = waiting.pop()
        total += used.get(pid, 0.0)
        waiting.extend(children[pid])
    return total


def _stat(folder: Path) -> tuple[int, float] | None:
    """Return the parent's pid and the CPU seconds, or None if the process has gone."""
    try:
        # The name, in parentheses, may hold anything.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return int(fields[1]), sum(map(int, fields[11:15])) / _TICKS
