"""The data directory: whether it can be written, and what room its disk has. Makes no folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

from tailorbird.doctor.finding import Finding, failed, ok, warning
from tailorbird.holders import lock_holder, told_process

_GIB = 2**30
_LEAST_FREE, _USUAL_FREE = 1.0, 10.0


def data_directory(
    folder: Path, lock: str = "", *, least: float = _LEAST_FREE, usual: float = _USUAL_FREE
) -> Iterator[Finding]:
    """Tell whether `folder` can be made or written, who uses it, and what is free there, in GiB."""
    folder = folder.absolute()
    existing = nearest(folder)
    try:
        # It has no name: nothing stays, whatever happens.
        with TemporaryFile(dir=existing) as file:
            file.write(b"probe")
            file.flush()
    except OSError as error:
        found = f"{existing} cannot be written: {error.strerror}"
        advice = f"let the user {os.getuid()} write there, or choose another: TAILORBIRD_DATA_DIR"
        yield failed("data directory", found, advice)
        return
    used = ""
    if lock and (holder := lock_holder(folder / lock)) is not None:
        used = f", in use by {told_process(holder)}"
    made = "" if existing == folder else " (made at the first start)"
    yield ok("data directory", f"{folder} can be written{made}{used}")
    yield _disk(existing, least, usual)


def nearest(folder: Path) -> Path:
    """Return `folder`, or the nearest above it that exists."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def _disk(folder: Path, least: float, usual: float) -> Finding:
    usage = shutil.disk_usage(folder)
    free = usage.free / _GIB
    digits = 1 if free < _USUAL_FREE else 0
    told = f"{free:.{digits}f} GiB free of {usage.total / _GIB:.0f} GiB at {folder}"
    if free >= usual:
        return ok("disk", told)
    advice = (
        "make room there, or choose a larger disk: TAILORBIRD_DATA_DIR; checkpoints, data and"
        " adapters are kept there"
    )
    return (failed if free < least else warning)("disk", told, advice)
