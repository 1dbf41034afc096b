"""Which process holds a lock or a port of this machine, as far as /proc tells. Standard library.

Linux only; elsewhere, and of other users' processes, nobody is found.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"
_MAX_COMMAND = 120


def lock_holder(file: Path, locks: Path = Path("/proc/locks")) -> int | None:
    """Return the process that holds a lock (`flock`) on `file`."""
    try:
        wanted = file.stat()
        lines = locks.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        # 1: FLOCK  ADVISORY  WRITE 4242 fd:01:1234567 0 EOF; "->" before FLOCK where one waits.
        kind, _, _, pid, place = [*line.split()[1:6], "", "", "", "", ""][:5]
        # The device there is not always the file's own (overlayfs, btrfs): its files tell.
        if kind == "FLOCK" and place.rpartition(":")[2] == str(wanted.st_ino) and int(pid) > 0:
            for opened in _opened(int(pid)):
                with suppress(OSError):
                    if os.path.samestat(opened.stat(), wanted):
                        return int(pid)
    return None


def port_holder(port: int) -> int | None:
    """Return the process that listens on `port`, whatever the address."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    if not sockets:
        return None
    for folder in Path("/proc").glob("[0-9]*"):
        for opened in _opened(int(folder.name)):
            with suppress(OSError):
                if str(opened.readlink()) in sockets:
                    return int(folder.name)
    return None


def told_process(pid: int | None) -> str:
    """Say which process that is: its number and its command, or that it is not known."""
    if pid is None:
        return "another process"
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        words = []
    command = " ".join(word for word in words if word)
    if len(command) > _MAX_COMMAND:
        command = f"{command[:_MAX_COMMAND]}…"
    return f"process {pid} ({command})" if command else f"process {pid}"


def _opened(pid: int) -> Iterable[Path]:
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return []


def _listening(port: int) -> Iterator[str]:
    """Yield the inodes of the sockets that listen on `port`."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == _LISTENING and int(columns[1].rpartition(":")[2], 16) == port:
                yield columns[9]
