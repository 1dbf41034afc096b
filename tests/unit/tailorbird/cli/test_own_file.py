"""Two commands that change a file of one folder do so one after the other."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tailorbird.cli.own_file import alone_in


def test_nobody_else_is_in_the_folder_meanwhile(tmp_path: Path) -> None:
    other = os.open(tmp_path, os.O_RDONLY)
    try:
        with alone_in(tmp_path, "file"), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(other)
