"""Redaction in a process of its own: however much is recorded, no stream waits for its interpreter.

What ends that process, lack of memory or a fault in a library, ends at most one record.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from threading import Event, Lock, Timer
from typing import TYPE_CHECKING, Any

import structlog

from tailorbird.errors import FailedPrecondition, InvalidArgument, Unavailable
from tailorbird.feedback import FeedbackRecord
from tailorbird.personal_data.modes import Mode

if TYPE_CHECKING:
    from tailorbird.personal_data.scanner import Scanner

_log = structlog.get_logger(__name__)

_MODULE = f"{__package__}.redacting"
_SECONDS = 300.0
"""Three times what the slowest text of the longest record takes, a MiB of numbers: 90 s."""
_TRIES = 2


class _Lost(Exception):
    """The process cannot be started, or has ended by itself."""


@dataclass(frozen=True, slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    connection: Connection

    def end(self) -> int:
        """End it, and return its exit status."""
        self.process.kill()
        return self.process.wait()


class RedactionProcess:
    """A process that is asked by one thread at a time; `close` may come from another.

    `scanner` is called there, and reaches it pickled.
    """

    def __init__(self, scanner: Callable[[], Scanner], mode: Mode) -> None:
        self._begin = scanner, mode
        self._child: _Child | None = None
        self._closed = False
        self._lock = Lock()

    def start(self) -> None:
        """Start the process unless it runs. Blocking: seconds.

        Raises what `scanner` does, and what `redacted` does.
        """
        self._tried(self._running)

    def redacted(self, record: FeedbackRecord) -> FeedbackRecord:
        """Return the record as it may be stored. Blocking.

        A process that is lost is started again, and has the record once more: it may have been
        killed long before. Raises what `Replacer.replace` does, FailedPrecondition
        (REDACTION_TIMED_OUT), and Unavailable: REDACTION_LOST, or SHUTTING_DOWN once closed.
        """
        redacted: FeedbackRecord = self._tried(lambda: self._asked(record))
        return redacted

    def close(self) -> None:
        """End the process; who waits for it gets Unavailable."""
        with self._lock:
            self._closed = True
            child, self._child = self._child, None
            if child is not None:
                child.end()

    def _tried(self, work: Callable[[], Any]) -> Any:
        lost = None
        for _ in range(_TRIES):
            try:
                return work()
            except _Lost as error:
                _log.warning("redaction process lost", error=str(error))
                lost = error
        raise Unavailable(
            f"the process that looks for personal data {lost}", reason="REDACTION_LOST"
        ) from lost

    def _asked(self, record: FeedbackRecord) -> Any:
        try:
            child = self._running()
        except InvalidArgument as error:
            # It is about a setting that was right, and the caller has none.
            raise _Lost(f"cannot be started: {error.message}") from error
        return self._answer(child, record)

    def _running(self) -> _Child:
        with self._lock:
            if self._closed:
                raise stopping()
            if self._child is not None:
                return self._child
            child = self._child = _started()
        try:
            self._answer(child, self._begin)
        except Exception:
            self._forget(child)
            raise
        return child

    def _answer(self, child: _Child, message: object) -> Any:
        """Return what the process makes of a message; raises the error that this is."""
        late = Event()

        def give_up() -> None:
            late.set()
            child.process.kill()

        timer = Timer(_SECONDS, give_up)
        timer.daemon = True
        timer.start()
        try:
            child.connection.send(message)
            answer = child.connection.recv()
        except (OSError, EOFError) as error:
            raise self._lost(child, late=late.is_set()) from error
        finally:
            timer.cancel()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _lost(self, child: _Child, *, late: bool) -> Exception:
        """Return the error for a process that has ended."""
        status = self._forget(child)
        if self._closed:
            return stopping()
        if not late:
            return _Lost(f"ended with status {status}")
        return FailedPrecondition(
            f"looking for personal data did not end within {_SECONDS:g} s and was given up",
            reason="REDACTION_TIMED_OUT",
            seconds=f"{_SECONDS:g}",
        )

    def _forget(self, child: _Child) -> int:
        """End a process, unless it has ended, and return its exit status."""
        status = child.end()
        child.connection.close()
        with self._lock:
            self._child = None
        return status


def _started() -> _Child:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # A Ctrl-C is for serving, which ends it.
                start_new_session=True,
            )
        except OSError as error:
            raise _Lost(f"cannot be started: {error.strerror}") from error
        return _Child(process, Connection(ours.detach()))


def stopping() -> Unavailable:
    """Return the error of a record that came, or waited, when serving ended."""
    return Unavailable("serving is stopping", reason="SHUTTING_DOWN")
