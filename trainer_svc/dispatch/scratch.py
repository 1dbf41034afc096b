"""A folder that one process has for itself, among others on a disk that outlives them all."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Self
from uuid import uuid4

_PREFIX = "ray-"
_LOCK = ".lock"


class Scratch:
    """The folder `path`, until it is deleted; its lock goes with the process that claimed it."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def claimed(cls, parent: Path) -> Self:
        """Make a new folder in `parent`, and delete those whose processes are gone; OSError."""
        parent.mkdir(parents=True, exist_ok=True)
        for lock in parent.glob(f"{_PREFIX}*{_LOCK}"):
            _delete_if_left(lock)
        while True:
            path = parent / f"{_PREFIX}{uuid4().hex}"
            lock_file = os.open(_lock_of(path), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            if _locked(lock_file):
                path.mkdir()
                return cls(path, lock_file)
            os.close(lock_file)

    def delete(self) -> None:
        """Delete the folder; what cannot be is left to whoever claims the next one."""
        shutil.rmtree(self.path, ignore_errors=True)
        if not self.path.exists():
            with suppress(OSError):
                _lock_of(self.path).unlink()
        with suppress(OSError):
            os.close(self._lock)


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + _LOCK)


def _locked(file: int) -> bool:
    """Lock the file if nobody else has; False as well if it was deleted before."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(file).st_nlink > 0


def _delete_if_left(lock: Path) -> None:
    # Another process may be at it as well.
    with suppress(OSError):
        file = os.open(lock, os.O_RDWR)
        try:
            if _locked(file):
                shutil.rmtree(lock.with_name(lock.name.removesuffix(_LOCK)), ignore_errors=True)
                lock.unlink()
        finally:
            os.close(file)
