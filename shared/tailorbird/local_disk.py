"""The machine's own disk: a folder for one process alone, and the error of a disk that is full."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tailorbird.errors import FailedPrecondition


def is_disk_full(error: OSError) -> bool:
    """Tell whether `error` is a disk or a quota that has no room left."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def locked_folder(folder: Path, lock: str) -> Iterator[None]:
    """Make `folder` and hold its file `lock`, which no two processes can at once.

    Raises FailedPrecondition: DATA_DIR_UNUSABLE, or DATA_DIR_LOCKED if another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / lock).open("w")
    except OSError as error:
        raise FailedPrecondition(
            f"the data folder {folder} cannot be used: {error.strerror}", reason="DATA_DIR_UNUSABLE"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FailedPrecondition(
                f"another process uses the data folder {folder}", reason="DATA_DIR_LOCKED"
            ) from error
        yield
