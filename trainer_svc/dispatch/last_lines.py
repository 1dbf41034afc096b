"""What a worker process prints: every line goes to the log, the last ones say why it ended.

They are the operator's. A worker's standard error may hold any of its tenants' names, figures and
pieces of text, and this machine's paths; so a job that had the worker alone gets the lines without
paths, and any other hears of the type of an exception and no more.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tailorbird.telemetry import plain_stderr
from trainer_svc.dispatch.waiting import wait

_LINES = 120
"""That are kept: of the stack that is printed at a fatal signal the first are of use."""
_PIECE_BYTES = 64 * 2**10
"""A line that never ends is taken in pieces of at most so many bytes."""
_BURST = 10_000
_A_SECOND = 2000
"""Lines, or for each 256 bytes one, that are taken at once and then in each second."""
_AT_ONCE = 100
_LINE_BYTES = 256
_TOLD_LINES = 5
_LOOKED_AT_CHARS = 1000
_TOLD_CHARS = 240
"""Of each: what a job's error has of all of them fits into a gRPC status many times."""

_URL = r"""[a-z][a-z0-9+.-]{0,20}://[^\s'",;)\]}]+"""
_PATH = r"""(?<![\w.])~?/[^\s'",:;)\]}]*"""
_PLACE = re.compile(f"{_URL}|{_PATH}", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_TYPE = r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)"
_RAISED = re.compile(rf"^({_TYPE})(?::|$)")
_FATAL = re.compile(r"^Fatal Python error: (\w[\w ]{0,40})")
_THROWN = re.compile(r"^terminate called after throwing an instance of '([\w:]{1,80})'")
_MAX_TYPE = 100


class LastLines:
    """Takes what a process prints, gives each line to `echo`, and keeps the last ones."""

    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo = echo
        self._hurried = asyncio.Event()
        self._kept: deque[tuple[str, str]] = deque(maxlen=_LINES)
        """Each as a job may read it, and the type of the exception that it tells of, if any."""

    async def read(self, stream: asyncio.StreamReader) -> None:
        """Take all that comes until the stream ends. A cancellation loses what was not taken.

        Of a process that prints without end the last lines of each piece are taken, and it waits
        for the next one: this process has others to hear.
        """
        rest = b""
        pace = _Pace(self._hurried)
        while piece := await stream.read(_PIECE_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) >= _PIECE_BYTES:
                lines, rest = [*lines, rest], b""
            if len(lines) > _LINES and not pace.has_room(len(lines)):
                self._echo_safely(f"{len(lines) - _LINES} lines of a worker are left out")
                lines = lines[-_LINES:]
            for at in range(0, len(lines), _AT_ONCE):
                for line in lines[at : at + _AT_ONCE]:
                    self.take(line.decode(errors="replace"))
                await asyncio.sleep(0)
            await pace.after(max(len(lines), len(piece) // _LINE_BYTES))
        if rest:
            self.take(rest.decode(errors="replace"))

    def hurry(self) -> None:
        """Take what is left at once: the process has ended, and little can be."""
        self._hurried.set()

    def take(self, line: str) -> None:
        """Take one line."""
        line = line.rstrip("\r")
        if line.strip():
            record = _record(line)
            self._kept.append((_plain(line, record), _exception(line, record)))
            self._echo_safely(line)

    def _echo_safely(self, line: str) -> None:
        # Where no log can be written, who prints must not wait for it.
        with suppress(OSError, ValueError):
            self._echo(line)

    @property
    def exception(self) -> str:
        """The type of the last exception, or what the interpreter died of; "" of neither."""
        return next((raised for _, raised in reversed(self._kept) if raised), "")

    @property
    def told(self) -> str:
        """The last lines for a job that had the process alone; of a fatal signal, what says so."""
        lines = [text for text, _ in self._kept if text]
        fatal = [at for at, text in enumerate(lines) if _FATAL.match(text)]
        first = fatal[-1] if fatal else max(0, len(lines) - _TOLD_LINES)
        return " | ".join(lines[first : first + _TOLD_LINES])


class _Pace:
    """How many lines may come; who is ahead of that waits, unless it is `hurried`."""

    def __init__(self, hurried: asyncio.Event) -> None:
        self._hurried = hurried
        self._ahead = 0.0
        self._looked = time.monotonic()

    def has_room(self, lines: int) -> bool:
        """Tell whether so many more may come at once."""
        return self._now() + lines <= _BURST

    async def after(self, lines: int) -> None:
        """Count lines, and wait until as many may have come."""
        self._ahead, self._looked = self._now() + lines, time.monotonic()
        if (pause := max(0.0, self._ahead - _BURST) / _A_SECOND) > 0:
            await wait(self._hurried, pause)

    def _now(self) -> float:
        return max(0.0, self._ahead - (time.monotonic() - self._looked) * _A_SECOND)


def to_the_log(line: str) -> None:
    """Pass a line on to where this process's own log goes; one that is a record stays as it is."""
    stream = plain_stderr() if line.startswith("{") else sys.stderr
    stream.write(f"{line}\n")
    stream.flush()


def without_places(text: str) -> str:
    """Return the text with only the last part of each path, and of no URL anything."""

    def short(found: re.Match[str]) -> str:
        place = found[0]
        return "…" if "://" in place else place.rstrip("/").rpartition("/")[2] or "…"

    return _PLACE.sub(short, text)


def _record(line: str) -> dict[str, Any]:
    """Return what a line of the log in JSON says; {} of any other."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _exception(line: str, record: dict[str, Any]) -> str:
    chain = record.get("exception")
    if isinstance(chain, list) and chain and isinstance(chain[0], dict):
        # What was raised last; its causes follow.
        name = chain[0].get("exc_type")
        return name[:_MAX_TYPE] if isinstance(name, str) and name.isidentifier() else ""
    text = str(record.get("event", "")) if record else line
    found = _RAISED.match(text) or _FATAL.match(text) or _THROWN.match(text)
    return found[1][:_MAX_TYPE].strip() if found else ""


def _plain(line: str, record: dict[str, Any]) -> str:
    """Return what a job may read of its own worker's line: no path, address or identity."""
    if record:
        # Fields beside the event name jobs, machines and processes.
        raised = _exception(line, record)
        line = str(record.get("event", "")) + (f" ({raised})" if "exception" in record else "")
    text = _UNPRINTABLE.sub(" ", line[:_LOOKED_AT_CHARS])
    return " ".join(without_places(text).split())[:_TOLD_CHARS]
