"""A shell that runs a page's commands one after the other, as a reader who follows it would."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SECONDS = 400
_VERSION = re.compile(r"\b\d{8}T\d{6}-([a-z][a-z0-9-]*?)(?:-[0-9a-f]{8})?-(\d+)\b")
# What a command exported, and where it went, is there for the next one.
_RUN = """
source state.sh 2>/dev/null
eval "$1"
status=$?
export -p >state.sh
exit $status
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit status, and its output and errors as they came."""

    status: int
    printed: str


class Shell:
    """Runs commands in `folder` with `environment`; what they export stays.

    A version's id has the time of its job in it, and what the trainer chose. In a command the id
    that a page shows stands for the last one printed that differs from it in that alone.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._versions: dict[tuple[str | Any, ...], str] = {}

    def run(self, command: str) -> Ended:
        """Run a command."""
        command = _VERSION.sub(lambda shown: self._versions.get(shown.groups(), shown[0]), command)
        done = subprocess.run(
            ["bash", "-c", _RUN, "bash", command],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        for found in _VERSION.finditer(done.stdout):
            self._versions[found.groups()] = found[0]
        return Ended(done.returncode, done.stdout)
