"""Files of secrets, or of their digests: changed whole, by one at a time, read by their owner."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tailorbird.errors import InvalidArgument


@contextlib.contextmanager
def alone_in(folder: Path, field: str) -> Iterator[None]:
    """Wait until no other command changes a file in `folder`; InvalidArgument names `field`."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InvalidArgument(field, f"the folder {folder}: {error.strerror}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def replace(path: Path, text: str) -> None:
    """Put a file with `text`, for its owner alone, in the place of what is at `path`.

    InvalidArgument if that is no file: /dev/null, say, which root could replace.
    """
    if path.exists() and not path.is_file():
        raise InvalidArgument(str(path), "it is no regular file, and is left as it is")
    # mkstemp makes the file readable by its owner alone.
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(scratch).unlink()
        raise
