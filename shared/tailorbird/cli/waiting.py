"""What a start waits for: told while it lasts, and ended only when nothing moves any more."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tailorbird.base_source import HubModel
from tailorbird.cli.service_process import Service, ServiceDied

_LOOK_SECONDS = 1.0
_RATE_SECONDS = 10.0
_STALL_SECONDS = 900.0
# Who only waits takes less than this of a core.
_BUSY = 0.02
_BLOCK = 512


@dataclass(slots=True)
class _Seen:
    """What a service had done when it was last seen to move. Times are monotonic."""

    log: int
    cpu: float
    since: float


class Waiting:
    """Tells what each service is at, and how much of a base has been fetched.

    `tell` hears about once a second. A service that, for `stall` seconds, has neither logged nor
    computed anything while nothing was fetched raises ServiceDied.
    """

    def __init__(
        self, hub: HubModel | None, tell: Callable[[str], None], stall: float = _STALL_SECONDS
    ) -> None:
        self._hub = hub
        self._tell = tell
        self._stall = stall
        self._looked = -_LOOK_SECONDS
        self._seen: dict[int, _Seen] = {}
        self._fetched: list[tuple[float, int]] = []
        """When how many bytes had been fetched, over the last seconds."""
        self._fetched_at = 0.0

    def waits(self, service: Service, seconds: float) -> None:
        """Hear that a service does not take requests yet, so many seconds after its start."""
        now = time.monotonic()
        if service.pid in self._seen and now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        fetching = self._fetching(now)
        self._check(service, now)
        told = f"{service.name} starts ({seconds:.0f} s)"
        if fetching:
            self._tell(f"{told}: {fetching}")
        else:
            event = service.last_event()
            self._tell(f"{told}: {event}" if event else told)

    def _fetching(self, now: float) -> str:
        """Say how much has been fetched, if any was within the last seconds."""
        if self._hub is None:
            return ""
        total = _size(self._hub.folder)
        if self._fetched and total > self._fetched[-1][1]:
            self._fetched_at = now
        self._fetched = [one for one in self._fetched if now - one[0] < _RATE_SECONDS]
        self._fetched.append((now, total))
        if now - self._fetched_at > _RATE_SECONDS:
            return ""
        (then, before), most = self._fetched[0], self._hub.bytes
        rate = (total - before) / (now - then) if now > then else 0.0
        of = f" of {_told(most)}" if most else ""
        return f"fetching {self._hub.id}: {_told(total)}{of}, {_told(rate)}/s"

    def _check(self, service: Service, now: float) -> None:
        log, cpu = service.log.stat().st_size, _cpu_seconds(service.pid)
        seen = self._seen.get(service.pid)
        if (
            seen is None
            or log != seen.log
            or cpu - seen.cpu > max(1.0, _BUSY * (now - seen.since))
            or self._fetched_at > seen.since
        ):
            self._seen[service.pid] = _Seen(log, cpu, now)
        elif now - seen.since > self._stall:
            raise ServiceDied(
                f"{service.name} is not ready, and has done nothing for {self._stall:.0f} s"
                f"{service.last_words()}"
            )


def _size(folder: Path) -> int:
    """Return the bytes that the files under the folder take on disk, those half fetched too."""
    total = 0
    for place, _, names in os.walk(folder / "blobs"):
        for name in names:
            with suppress(OSError):
                stat = Path(place, name).stat()
                total += min(stat.st_size, stat.st_blocks * _BLOCK)
    return total


def _cpu_seconds(session: int) -> float:
    """Return what the processes of a session have computed, in seconds of a core."""
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            # pid (name, which may hold anything) state ppid pgrp session … utime stime
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _told(count: float) -> str:
    """Say a number of bytes."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
