"""What libraries print to standard error, as records of the log: where logs are JSON, all of it is.

Progress bars, tracebacks of processes that end, warnings: each line becomes a record of its own.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
from collections.abc import Mapping
from threading import RLock
from typing import BinaryIO, TextIO

from tailorbird.telemetry import (
    LogFormat,
    configure_logging,
    is_console,
    plain_stderr,
    raw_log_format,
)

_log = logging.getLogger("stderr")

# A line that never ends is logged in pieces of at least this many characters.
_MAX_LINE = 64 * 1024


def log_what_is_printed(log_format: LogFormat) -> None:
    """Make a record of each line that this process prints from now on, unless people read it.

    Logging is configured before, on the standard error of before.
    """
    if is_console(log_format) or isinstance(sys.stderr, _Lines):
        return
    # A record that cannot be written would be complained of here, and written, and so on.
    logging.raiseExceptions = False
    sys.stderr = lines = _Lines(sys.stderr)
    atexit.register(lines.end)


def log_as_the_parent(environ: Mapping[str, str] = os.environ) -> None:
    """Configure the logs of a service's child process, which has inherited its environment only."""
    log_format = raw_log_format(environ)
    configure_logging(log_format, environ.get("TAILORBIRD_LOG_LEVEL") or "info")
    log_what_is_printed(log_format)


class PlainStderr(logging.StreamHandler[TextIO]):
    """Writes records to the standard error that the process began with."""

    def __init__(self) -> None:
        super().__init__(plain_stderr())


class _Lines(io.TextIOBase):
    """Logs each line written to it; `plain` is what it stands in for."""

    def __init__(self, plain: TextIO) -> None:
        self.plain = plain
        self._rest: list[str] = []
        self._chars = 0
        # A record that is written may print, too.
        self._lock = RLock()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, rest = text.replace("\r", "\n").split("\n")
            if lines:
                lines[0] = self._taken() + lines[0]
            self._rest.append(rest)
            self._chars += len(rest)
            if self._chars > _MAX_LINE:
                lines.append(self._taken())
        # Outside of the lock: a thread that logs, and holds logging's, may wait for this one.
        for line in lines:
            _report(line)
        return len(text)

    def end(self) -> None:
        """Log what was printed without an end of line: it may say why the process ends."""
        with self._lock:
            rest = self._taken()
        _report(rest)

    def _taken(self) -> str:
        rest = "".join(self._rest)
        self._rest, self._chars = [], 0
        return rest

    def flush(self) -> None:
        self.plain.flush()

    def fileno(self) -> int:
        return self.plain.fileno()

    def isatty(self) -> bool:
        return False

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base class has a value
        return self.plain.encoding

    @property
    def buffer(self) -> BinaryIO:
        return self.plain.buffer


def _report(line: str) -> None:
    if line.strip():
        _log.warning("%s", line)
