"""What libraries print to standard error, as records of the log: where logs are JSON, all of it is.

Progress bars, tracebacks of processes that end, warnings: each line becomes a record of its own.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Any, TextIO

from tailorbird.telemetry import LogFormat, is_console

_log = logging.getLogger("stderr")


def log_what_is_printed(log_format: LogFormat) -> None:
    """Make a record of each line that this process prints from now on, unless people read it.

    Logging is configured before, on the standard error of before.
    """
    if is_console(log_format) or isinstance(sys.stderr, _Lines):
        return
    # A record that cannot be written would be complained of here, and written, and so on.
    logging.raiseExceptions = False
    sys.stderr = _Lines(sys.stderr)


class PlainStderr(logging.StreamHandler[TextIO]):
    """Writes records to the standard error that the process began with."""

    def __init__(self) -> None:
        stream = sys.stderr
        super().__init__(stream.plain if isinstance(stream, _Lines) else stream)


class _Lines(io.TextIOBase):
    """Logs each line written to it; `plain` is what it stands in for."""

    def __init__(self, plain: TextIO) -> None:
        self.plain = plain
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).replace("\r", "\n").split("\n")
        for line in lines:
            if line.strip():
                _log.warning("%s", line)
        return len(text)

    def flush(self) -> None:
        self.plain.flush()

    def fileno(self) -> int:
        return self.plain.fileno()

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        # What else is asked of a standard stream: its encoding, its buffer.
        return getattr(self.plain, name)
