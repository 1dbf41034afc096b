"""The machine's own disk: a folder for one process alone, and the error of a disk that is full."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tailorbird.errors import FailedPrecondition

_SHARED = ("nfs", "cifs", "smb", "9p", "fuse.", "ceph", "glusterfs", "lustre", "virtiofs")


def is_disk_full(error: OSError) -> bool:
    """Tell whether `error` is a disk or a quota that has no room left."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def shared_filesystem(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the file system under `folder` if machines share it, such as nfs; or "".

    Their locks and their order of writes are not what SQLite's write-ahead log needs.
    """
    found, depth = "", -1
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        left, _, right = line.partition(" - ")
        place = Path(left.split()[4])
        # Of two mounts at one place, the later one is on top.
        if folder.is_relative_to(place) and len(place.parts) >= depth:
            found, depth = right.split()[0], len(place.parts)
    return found if found.startswith(_SHARED) else ""


def delete_unheld(folder: Path) -> bool:
    """Delete `folder` unless somebody holds a lock on it (`flock`); tell whether it is gone."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()
    finally:
        os.close(lock)


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
            f"the data folder {folder} cannot be used: {error.strerror}",
            reason="DATA_DIR_UNUSABLE",
            setting="data_dir",
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FailedPrecondition(
                f"another process uses the data folder {folder}",
                reason="DATA_DIR_LOCKED",
                setting="data_dir",
            ) from error
        except OSError as error:
            raise FailedPrecondition(
                f"the data folder {folder} cannot be locked: {error.strerror}",
                reason="DATA_DIR_UNUSABLE",
                setting="data_dir",
            ) from error
        yield


def kept_id(folder: Path, name: str) -> str:
    """Return the id of what lives in `folder`, 32 hex digits, which its file `name` keeps.

    Made when it is first asked for; who asks has locked the folder. FailedPrecondition
    (DATA_DIR_UNUSABLE) if it cannot be read or kept.
    """
    path, new = folder / name, folder / f"{name}.new"
    try:
        if path.exists() and re.fullmatch("[0-9a-f]{32}", kept := path.read_text("utf-8")):
            return kept
        with new.open("w", encoding="utf-8") as file:
            file.write(made := uuid.uuid4().hex)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except (OSError, UnicodeDecodeError) as error:
        raise FailedPrecondition(
            f"the data folder {folder} cannot be used: {error}",
            reason="DATA_DIR_UNUSABLE",
            setting="data_dir",
        ) from error
    return made
