"""Processes as /proc tells of them. Linux only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Seen:
    """A process that runs."""

    pid: int
    started: int
    """In ticks since the machine's start: with `pid` it names a process for good."""
    parent: int
    command: str


def processes_of(setting: str) -> list[Seen]:
    """Return the processes that have `setting` ("NAME=VALUE") in their environment."""
    wanted = setting.encode()
    found = []
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # One that has ended and is not waited for has none.
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                found.append(Seen(int(folder.name), int(fields[19]), int(fields[1]), command))
        except OSError:
            continue
    return found


def strays(found: list[Seen], root: int) -> list[Seen]:
    """Return those that neither are `root` nor descend from it."""
    parents = {each.pid: each.parent for each in found}

    def descends(pid: int) -> bool:
        while pid != root and pid in parents:
            pid = parents[pid]
        return pid == root

    return [each for each in found if not descends(each.pid)]


def own_memory_kib(pid: int) -> int:
    """Return a process's resident memory without what it has of files; OSError if it is gone."""
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


def descriptors(pid: int) -> int:
    """Return how many files a process has open; OSError if it is gone."""
    return sum(1 for _ in (_PROC / str(pid) / "fd").iterdir())
