"""Datasets and what was made of them, on local disk: once, bounded, never another tenant's.

{folder}/{tenant}/{dataset sha256}-{tokenizer digest}-{format}-{limit}-{rows}-{cut|drop}/
                            a whole entry: tokens
{folder}/{tenant}/{dataset sha256}-file/
                            a whole entry: the dataset itself
    MANIFEST.json           written last: every other file's digest
{folder}/.partial/{unique}/  one that is being made, or that was broken

Several processes may use one folder. Whoever makes or reads an entry holds a shared lock on its
folder, and only what nobody holds is deleted.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol
from uuid import uuid4

from tailorbird.errors import Unavailable
from tailorbird.local_disk import delete_unheld, is_disk_full

_MANIFEST = "MANIFEST.json"
_PARTIAL = ".partial"
"""No tenant's id begins with a dot."""
_CHECK_SECONDS = 0.2
_MAX_ENTRIES = 4096
"""Of small ones `max_bytes` would allow far more, and all are looked at when one is added."""
_BLOCK_BYTES = 512
"""What `st_blocks` counts, whatever the file system's own blocks are."""


class Key(Hashable, Protocol):
    """Names an entry; nothing else has its path."""

    @property
    def path(self) -> str:
        """The entry's folder in the cache's: {tenant}/{name}."""


@dataclass(frozen=True)
class CacheKey:
    """What an entry of tokens was made of, and whose it is."""

    tenant: str
    dataset_sha256: str
    tokenizer_digest: str
    record_format: str
    limit: int
    rows: int
    truncate: bool

    @property
    def path(self) -> str:
        """The entry's folder in the cache's."""
        made_of = (self.dataset_sha256, self.tokenizer_digest, self.record_format)
        too_long = "cut" if self.truncate else "drop"
        return f"{self.tenant}/{'-'.join(made_of)}-{self.limit}-{self.rows}-{too_long}"


class Entry:
    """A folder in use: it stays while this object lives."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self.release = weakref.finalize(self, os.close, lock)


class DatasetCache:
    """Entries under `folder`, of `max_bytes` of disk together; the one used longest ago goes first.

    What is in use is never deleted, and what is being made is not counted, so that the folder may
    hold more for a while.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._partial = folder / _PARTIAL
        self._max_bytes = max_bytes
        self._turns: weakref.WeakValueDictionary[Key, _Turn] = weakref.WeakValueDictionary()
        self._lock = Lock()
        self._partial.mkdir(parents=True, exist_ok=True)
        self._sweep()

    def get(self, key: Key) -> Entry | None:
        """Return the entry of `key` if there is a whole one."""
        return self._open(key)

    def get_or_make(
        self, key: Key, build: Callable[[Path], None], check: Callable[[], None]
    ) -> Entry:
        """Return the entry of `key`; if there is none, or it is broken, `build` fills its folder.

        Of several threads that want the same one, one builds and the others wait; `check` is called
        meanwhile and may raise. Raises what `build` raises, and Unavailable (DISK_FULL); then
        nothing is left.
        """
        with self._lock:
            turn = self._turns.setdefault(key, _Turn())
        with turn.taken(check):
            found = self._open(key)
            entry = found or self._make(key, build)
        if found is None:
            self._evict()
        return entry

    def _open(self, key: Key) -> Entry | None:
        folder = self._folder / key.path
        entry = _hold(folder)
        if entry is not None and not _is_whole(folder):
            entry.release()
            self._discard(folder)
            return None
        if entry is not None:
            os.utime(folder)
        return entry

    def _make(self, key: Key, build: Callable[[Path], None]) -> Entry:
        entry = self._begin()
        partial = entry.folder
        try:
            build(partial)
            _write_manifest(partial)
            return self._settle(entry, key)
        except OSError as error:
            if not is_disk_full(error):
                raise
            raise Unavailable(
                "the trainer's disk is full: the dataset could not be prepared", reason="DISK_FULL"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _begin(self) -> Entry:
        while True:
            folder = self._partial / uuid4().hex
            folder.mkdir()
            entry = _hold(folder)
            # None: another process that is just starting swept it away before it was held.
            if entry is not None:
                return entry

    def _settle(self, made: Entry, key: Key) -> Entry:
        """Give what was made its name; if another process was faster, take what that made."""
        folder = self._folder / key.path
        folder.parent.mkdir(exist_ok=True)
        while True:
            try:
                made.folder.rename(folder)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                theirs = self._open(key)
                if theirs is not None:
                    return theirs
            else:
                made.folder = folder
                return made

    def _evict(self) -> None:
        count = kept = 0
        for _, size, folder in sorted(_entries(self._folder), reverse=True):
            count, kept = count + 1, kept + size
            over = kept > self._max_bytes or count > _MAX_ENTRIES
            if over and delete_unheld(folder):
                count, kept = count - 1, kept - size

    def _discard(self, folder: Path) -> None:
        """Take an entry out of the cache; its files go when nobody uses them any more."""
        with suppress(FileNotFoundError):
            folder.rename(self._partial / uuid4().hex)
        self._sweep()

    def _sweep(self) -> None:
        for folder in self._partial.iterdir():
            delete_unheld(folder)


class _Turn:
    """One thread after another."""

    def __init__(self) -> None:
        self._lock = Lock()

    @contextmanager
    def taken(self, check: Callable[[], None]) -> Iterator[None]:
        """Wait for the turn; `check` is called again and again and may raise."""
        while not self._lock.acquire(timeout=_CHECK_SECONDS):
            check()
        try:
            yield
        finally:
            self._lock.release()


def _hold(folder: Path) -> Entry | None:
    """Hold `folder`; None if there is none, or it was deleted meanwhile."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    entry = Entry(folder, lock)
    fcntl.flock(lock, fcntl.LOCK_SH)
    try:
        return entry if os.path.samestat(os.fstat(lock), folder.stat()) else None
    except FileNotFoundError:
        return None


def _entries(cache: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield when each entry was last used, the bytes of disk that it takes, and its folder."""
    for folder in cache.glob("[!.]*/*"):
        with suppress(FileNotFoundError):
            own = folder.stat()
            blocks = own.st_blocks + sum(file.stat().st_blocks for file in folder.iterdir())
            yield own.st_mtime, blocks * _BLOCK_BYTES, folder


def _write_manifest(folder: Path) -> None:
    digests = {file.name: _digest(file) for file in folder.iterdir()}
    (folder / _MANIFEST).write_text(json.dumps(digests), "utf-8")


def _is_whole(folder: Path) -> bool:
    try:
        digests = json.loads((folder / _MANIFEST).read_bytes())
        return all(_digest(folder / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, AttributeError):
        return False


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
