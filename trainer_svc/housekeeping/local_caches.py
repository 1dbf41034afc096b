"""Tokenised datasets on this machine's disk that nothing has used for long.

{folder}/{tenant}/{entry}/   see `engine/data/cache.py`: an entry's time is that of its last use
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from tailorbird.local_disk import delete_unheld

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class CacheEntry:
    """A folder of files, the bytes in them, and when it was last used, in seconds of `time`."""

    folder: Path
    files: int
    size: int
    used: float

    def delete(self) -> bool:
        """Delete it unless a worker has it in use; tell whether it is gone. Blocking."""
        try:
            return delete_unheld(self.folder)
        except OSError as error:
            _log.warning("a cache is not deleted", folder=str(self.folder), error=error.strerror)
            return False


def unused_entries(cache: Path, older_than: timedelta) -> list[CacheEntry]:
    """Return the entries not used for so long, by this machine's clock. Blocking."""
    before = time.time() - older_than.total_seconds()
    return [entry for entry in _entries(cache.glob("[!.]*/*")) if entry.used < before]


def entries_of(cache: Path, tenant: str) -> list[CacheEntry]:
    """Return a tenant's entries. Blocking."""
    return list(_entries(cache.glob(f"{tenant}/*")))


def _entries(folders: Iterator[Path]) -> Iterator[CacheEntry]:
    for folder in folders:
        # Another process may delete it meanwhile.
        with suppress(OSError):
            sizes = [file.stat().st_size for file in folder.iterdir()]
            yield CacheEntry(folder, len(sizes), sum(sizes), folder.stat().st_mtime)
