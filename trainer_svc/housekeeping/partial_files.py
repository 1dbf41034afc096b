"""Files that a killed process was writing into a store that is a folder.

The store's driver writes {key}#{number} beside the key's place and renames it at the end. What was
never renamed is in no listing, and no deletion by key reaches it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_PARTIAL = re.compile(r".+#\d+")


@dataclass(frozen=True)
class PartialFile:
    """A file and its bytes."""

    path: Path
    size: int

    def delete(self) -> None:
        """Delete it, if it is there still. Blocking."""
        self.path.unlink(missing_ok=True)


def partial_files(folder: Path, before: datetime | None = None) -> list[PartialFile]:
    """Return the partial files under `folder`, if given those not written since. Blocking."""
    found = []
    # Folders come and go with what is in them: one that is gone by now is passed over.
    names = (Path(parent, name) for parent, _, files in os.walk(folder) for name in files)
    for path in names:
        # Whoever writes it may rename it meanwhile.
        with suppress(FileNotFoundError):
            if not _PARTIAL.fullmatch(path.name) or path.is_symlink() or not path.is_file():
                continue
            stat = path.stat(follow_symlinks=False)
            if before is None or stat.st_mtime < before.timestamp():
                found.append(PartialFile(path, stat.st_size))
    return found
