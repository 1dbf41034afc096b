"""A file beneath a folder that whoever names it must not leave."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from io import FileIO
from pathlib import Path


def open_beneath(folder: Path, parts: Sequence[str]) -> FileIO:
    """Open the regular file at `parts` beneath `folder` for reading; no link there is followed.

    No part may be ".." or hold a slash. Blocking. Raises FileNotFoundError if nothing is there, and
    OSError of another kind for a link, or what is neither a folder nor a regular file.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened)
            os.close(opened)
            opened = inner
        # Not blocking: a pipe would wait for its writer.
        file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened)
    finally:
        os.close(opened)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError("not a regular file")
    return FileIO(file, "rb")
